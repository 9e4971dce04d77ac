"""First contact: a checkpoint and a folder of pictures, and no recipe. Each story through the real command line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from extcon_cli.checkpoint.zoo import ConvNet

from .conftest import QUICK, Extcon

SHORT = (*QUICK, "--set", "data.batch_size=8", "--set", "data.workers=0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of one colour each, in train/ and val/."""
    random.seed(0)
    for part, number in (("train", 10), ("val", 4)):
        for i, name in enumerate(("cat", "dog", "owl")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for n in range(number):
                colour = [random.randint(0, 80)] * 3
                colour[i] = 250
                Image.new("RGB", (40, 40), tuple(colour)).save(folder / f"{n}.png")
    return tmp_path / "photos"


def convnet(folder: Path, classes: int = 3, prefix: str = "net.", **more: torch.Tensor) -> Path:
    torch.manual_seed(0)
    state = {prefix + name: tensor for name, tensor in ConvNet(num_classes=classes).state_dict().items()}
    torch.save({"state_dict": {**state, **more}}, folder / "model.pt")
    return folder / "model.pt"


def test_prune_with_nothing_but_data(extcon: Extcon, tmp_path: Path, photos: Path) -> None:
    convnet(tmp_path, **{"criterion.weight": torch.ones(3)})
    done = extcon("prune", "model.pt", "--ratio", "0.5", "--data", "photos", "--json", *SHORT)
    assert done.code == 0, done.err
    assert "model.arch: zoo:convnet (score 100 %" in done.err
    assert "train/ and val/ with 3 folders" in done.err
    assert "taken off its names: net." in done.err
    assert "left out, no part of zoo:convnet: 1 tensor (criterion.weight)" in done.err
    model = done.document["recipe"]["model"]
    assert model == {
        "arch": "zoo:convnet",
        "kwargs": {"num_classes": 3},
        "input_shape": [3, 32, 32],
        "inputs": None,
        "examples": [],
        "ignore_unreached": False,
    }
    assert done.document["after"]["params"] < done.document["before"]["params"]
    again = extcon("evaluate", "model.pruned.safetensors", "--json")
    assert again.document["metrics"] == pytest.approx(done.document["after"]["metrics"])


def test_init_writes_the_recipe_that_the_others_find(extcon: Extcon, tmp_path: Path, photos: Path) -> None:
    convnet(tmp_path)
    done = extcon("init", "model.pt", "--data", "photos")
    assert done.code == 0, done.err
    text = (tmp_path / "model.yaml").read_text()
    assert "arch: zoo:convnet  # score 100 %: all" in text
    assert yaml.safe_load(text)["data"] == {"dataset": "image_folder", "root": "photos"}
    assert extcon("recipe", "check", "model.yaml").code == 0
    assert extcon("evaluate", "model.pt", "--json", "--set", "data.workers=0").document["samples"] == 12
    assert "--force" in extcon("init", "model.pt").error


def test_init_knows_the_habits_of_a_library(extcon: Extcon, tmp_path: Path, photos: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "model.pt")
    done = extcon("init", "model.pt", "--data", "photos", "--json")
    found = {finding["key"]: finding["value"] for finding in done.document["findings"]}
    assert found["model.arch"] == "torchvision:resnet18"
    assert found["model.kwargs"] == "{num_classes: 3}"
    assert found["model.input_shape"] == "[3, 224, 224]"
    assert "mean: [0.485, 0.456, 0.406]" in found["data.normalize"]
    assert done.document["missing"] == []
    assert extcon("recipe", "check", "model.yaml").code == 0


def test_one_error_lists_all_that_is_missing_with_the_recipe(extcon: Extcon, tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 3)).state_dict(), tmp_path / "model.pt")
    done = extcon("prune", "model.pt", "--ratio", "0.5")
    assert (done.code, done.out) == (2, "")
    for key in ("model.arch", "model.input_shape", "data.dataset", "data.root"):
        assert f"  {key}: " in done.err
    assert "Put this recipe beside it as model.yaml" in done.err
    pasted = done.err.split("filled in:\n\n")[1].replace("# model:", "model:").replace("# data:", "data:")
    filled = pasted.replace("  # arch", "  arch").replace("  # input_shape", "  input_shape")
    filled = filled.replace("  # dataset", "  dataset").replace("  # root", "  root")
    values = yaml.safe_load(filled)
    assert values["model"]["arch"] == "file.py:factory"
    assert values["data"] == {"dataset": "image_folder", "root": "path/to/the/data"}
    (tmp_path / "model.yaml").write_text(pasted)
    assert extcon("init", "model.pt", "--out", "other.yaml").code == 0
    assert "only you know" in (tmp_path / "other.yaml").read_text()


def test_evaluate_on_other_data(extcon: Extcon, place: Path) -> None:
    (place / "digits_resnet.yaml").unlink()
    done = extcon("evaluate", "digits_resnet.pt", "--data", "digits", "--json")
    assert done.document["metrics"]["accuracy"] > 0.9
    (place / "table.csv").write_text("a,b,target\n" + "".join(f"{n},{n / 7},{n / 3}\n" for n in range(30)))
    torch.save(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).state_dict(), place / "net.pt")
    (place / "make.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))\n"
    )
    arch = ("--set", "model.arch=make.py:net", "--trust-code")
    done = extcon("evaluate", "net.pt", "--data", "table.csv", "--json", *arch)
    assert "r2" in done.document["metrics"], done.err
    assert "no such file or folder" in extcon("evaluate", "net.pt", "--data", "nowhere").error


def test_a_folder_and_a_class_count_that_differs(extcon: Extcon, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "run1").mkdir()
    convnet(tmp_path / "run1", classes=7)
    done = extcon("evaluate", "run1", "--data", "photos", "--set", "data.workers=0", "--json")
    assert done.code == 0, done.err
    assert "the model has 7 outputs, the data 3 classes" in done.err


def test_a_keep_pattern_that_matches_nothing(extcon: Extcon, place: Path) -> None:
    done = extcon("prune", "digits_resnet.pt", "--set", "prune.decide.keep=[stages.0.*, sten.0]")
    assert done.code == 2
    assert "prune.decide.keep: 'sten.0' matches no group; the nearest are stem.0" in done.err
    assert not (place / "digits_resnet.pruned.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(extcon: Extcon, place: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file

    state = torch.load(place / "digits_resnet.pt")
    half = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
    torch.save(half, place / "digits_resnet.pt")
    done = extcon("prune", "digits_resnet.pt", "--ratio", "0.3", "--json", *QUICK)
    assert done.code == 0, done.err
    written = load_file(place / "digits_resnet.pruned.safetensors")
    assert {t.dtype for t in written.values() if t.is_floating_point()} == {dtype}
    assert done.document["after"]["bytes"] == sum(t.numel() * t.element_size() for t in written.values())
    after = extcon("evaluate", "digits_resnet.pruned.safetensors", "--json").document["metrics"]
    assert after == pytest.approx(done.document["after"]["metrics"])
    verdict = extcon("verify", "digits_resnet.pruned.safetensors", "digits_resnet.pruned.safetensors", "--json")
    assert verdict.document["verdict"]


def test_float64_works_where_nothing_is_trained(extcon: Extcon, place: Path) -> None:
    state = torch.load(place / "digits_resnet.pt")
    wide = {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
    for name in ("weight", "bias"):
        wide[f"stages.0.0.bn1.{name}"][:3] = 0
    torch.save(wide, place / "wide.pt")
    assert extcon("inspect", "wide.pt", "--json").code == 0
    done = extcon("prune", "wide.pt", "--already-zero", "--json")
    assert done.code == 0, done.err
    verdict = extcon("verify", "wide.pt", "wide.pruned.safetensors", "--json")
    assert verdict.code == 0, verdict.err
    assert json.loads(verdict.out)["verdict"]
