"""`--dry-run` catches what would stop the real run: no fault seeded in recipes, data and checkpoints is missed.

In this process, on a net and data so small that a try takes a moment.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from extcon_cli.checkpoint.architectures import build
from extcon_cli.cli.app import app
from extcon_cli.errors import ExtconError

KWARGS: dict[str, Any] = {"widths": [6, 8], "blocks": 1}
CODE = """
import torch
from torch.utils.data import Dataset

class Samples(Dataset):
    def __init__(self, bad=None): self.bad = bad
    def __len__(self): return 60
    def __getitem__(self, index):
        x, y = torch.full((1, 8, 8), index / 60.0), index % 10
        if index == 47 and self.bad == "raises": raise ValueError("cut off")
        if index == 47 and self.bad == "nan": x[0, 0, 0] = float("nan")
        if index == 47 and self.bad == "label": y = 12
        if index == 47 and self.bad == "shape": x = x[:, :4]
        return x, y

def good(): return Samples(), Samples()
def raises(): return Samples("raises"), Samples()
def nan(): return Samples("nan"), Samples()
def label(): return Samples("label"), Samples()
def shape(): return Samples("shape"), Samples()
def fails(): raise RuntimeError("no such disk")
def nothing(): return None
def broken(): return torch.nn.Linear("8", 8)
"""


@dataclass
class Scene:
    """A recipe, data and a checkpoint in a folder, to put a fault into."""

    folder: Path
    recipe: dict[str, Any]
    state: dict[str, torch.Tensor]
    x: np.ndarray
    y: np.ndarray
    args: list[str] = field(default_factory=list)

    def put(self, key: str, value: Any) -> None:
        """A key of the recipe."""
        *above, last = key.split(".")
        section = self.recipe
        for part in above:
            section = section.setdefault(part, {})
        section[last] = value

    def write(self) -> None:
        """What is not there yet."""
        for name, save in {
            "net.pt": lambda path: torch.save(self.state, path),
            "data.npz": lambda path: np.savez(path, x_train=self.x, y_train=self.y, x_test=self.x, y_test=self.y),
            "mine.yaml": lambda path: path.write_text(yaml.safe_dump(self.recipe)),
            "mine.py": lambda path: path.write_text(CODE),
        }.items():
            if not (self.folder / name).exists():
                save(self.folder / name)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    recipe = {
        "model": {"arch": "zoo:digits_resnet", "kwargs": dict(KWARGS), "input_shape": [1, 8, 8]},
        "data": {"dataset": "arrays", "root": "data.npz", "batch_size": 20, "validation": 0.2},
        "prune": {"ratio": 0.4, "score": {"method": "magnitude"}},
    }
    state = build("zoo:digits_resnet", KWARGS).state_dict()
    x = generator.integers(0, 255, (60, 1, 8, 8), dtype=np.uint8)
    return Scene(tmp_path, recipe, state, x, np.arange(60) % 10)


def dry_run(scene: Scene, command: str) -> None:
    """Run the command; its files are written first."""
    scene.write()
    args = [command] if "--no-checkpoint" in scene.args else [command, "net.pt"]
    given = [arg for arg in scene.args if arg != "--no-checkpoint"]
    recipe = [] if "--recipe" in given or "--sidecar" in given else ["--recipe", "mine.yaml"]
    given = [arg for arg in given if arg != "--sidecar"]
    out = [] if "--out" in given else ["--out", "out.safetensors"]
    app([*args, *recipe, *out, "--device", "cpu", "--quiet", "--dry-run", *given], standalone_mode=False)


@pytest.mark.parametrize("command", ["prune", "bypass", "train"])
def test_what_is_right_passes_and_leaves_nothing(
    scene: Scene, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.args = ["--json"]
    dry_run(scene, command)
    document = json.loads(capsys.readouterr().out)
    assert (document["command"], document["tried"], document["output"]) == ("dry-run", command, "out.safetensors")
    assert document["samples"] == {"train": 48, "validation": 12, "test": 60}
    assert document["read"] == 120
    assert sorted(path.name for path in scene.folder.iterdir()) == ["data.npz", "mine.py", "mine.yaml", "net.pt"]
    assert all(steps > 1 for name, steps in document["steps"].items() if name != "bifurcate")  # at once by default


Fault = Callable[[Scene], object]


def at(key: str, value: Any) -> Fault:
    return lambda scene: scene.put(key, value)


def given(*args: str) -> Fault:
    return lambda scene: scene.args.extend(args)


def text(name: str, content: str) -> Fault:
    return lambda scene: (scene.folder / name).write_text(content)


def arrays(**parts: Any) -> Fault:
    return lambda scene: np.savez(scene.folder / "data.npz", **parts)


def user_data(name: str) -> Fault:
    return lambda scene: scene.put(
        "data", {"dataset": f"mine.py:{name}", "batch_size": 20, "validation": 0, "workers": 0}
    )


def cut_off(name: str) -> Fault:
    def cut(scene: Scene) -> None:
        scene.write()
        path = scene.folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut


def plan(*rows: dict[str, Any]) -> Fault:
    def put(scene: Scene) -> None:
        (scene.folder / "p.json").write_text(json.dumps({"command": "plan", "groups": rows}))
        scene.args += ["--plan", "p.json"]

    return put


def pixels(change: Callable[[np.ndarray], Any]) -> Fault:
    def put(scene: Scene) -> None:
        scene.x = scene.x.astype(np.float32) / 255
        change(scene.x)

    return put


def labels(change: Callable[[np.ndarray], Any]) -> Fault:
    return lambda scene: change(scene.y)


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Fault:
    return lambda scene: change(scene.state)


def both(*faults: Fault) -> Fault:
    return lambda scene: [fault(scene) for fault in faults]


def pickled(scene: Scene) -> None:
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), scene.folder / "net.pt")


def nothing_to_prune(scene: Scene) -> None:
    scene.recipe["model"] = {"arch": "zoo:mlp", "kwargs": {"in_features": 64, "widths": [], "num_classes": 10}}
    scene.recipe["model"]["input_shape"] = [64]
    scene.state = build("zoo:mlp", scene.recipe["model"]["kwargs"]).state_dict()


X, Y = np.zeros((20, 1, 8, 8), np.uint8), np.arange(20) % 10
FAULTS: dict[str, tuple[str, Fault, str]] = {
    # recipes
    "unknown key": ("prune", at("prune.rato", 0.5), "did you mean 'ratio'"),
    "ratio beyond 1": ("prune", at("prune.ratio", 1.5), "less than 1"),
    "ratio and target": ("prune", at("prune.target", {"macs": 0.5}), "not both"),
    "two targets": ("train", at("prune", {"target": {"macs": 0.5, "params": 0.5}}), "exactly one of"),
    "size without unit": ("prune", at("prune", {"target": {"size": "10"}}), "bytes such as 10MB"),
    "target out of reach": ("prune", at("prune", {"target": {"macs": 0.001}}), "the target is missed"),
    "ratio that floors forbid": ("prune", both(at("prune.ratio", 0.95), at("prune.decide.floor", 0.5)), "floor"),
    "ratios of layers beyond": (
        "prune",
        both(at("prune.ratio", 0.1), at("prune.decide.layers", [{"match": "*", "ratio": 0.8}])),
        "prune.decide.layers take",
    ),
    "keep that matches nothing": ("prune", at("prune.decide.keep", ["layer9*"]), "matches no group"),
    "layer that matches nothing": ("prune", at("prune.decide.layers", [{"match": "layer9"}]), "matches no group"),
    "misspelt score": ("prune", at("prune.score.method", "enery"), "did you mean 'energy'"),
    "two lengths": ("prune", at("prune.finetune", {"epochs": 1, "steps": 1}), "not both"),
    "negative rate": ("train", at("train.optimizer.lr", -1.0), "greater than 0"),
    "rate in quotes": ("train", at("train.optimizer.lr", "0.1"), "should be a number"),
    "rate that diverges": ("train", at("train.optimizer.lr", 1e30), "not finite"),
    "unknown optimizer": ("bypass", at("bypass.optimizer.name", "lion"), "'adam'"),
    "no batch": ("train", at("data.batch_size", 0), "greater than 0"),
    "negative seed": ("train", at("seed", -1), "seed"),
    "unknown data set": ("prune", at("data.dataset", "cifar11"), "unknown dataset 'cifar11'"),
    "no data": ("prune", lambda scene: scene.recipe.pop("data"), "data"),
    "unknown task": ("prune", at("task", "clustering"), "clustering"),
    "another task": ("train", at("task", "regression"), "the model gives (10,)"),
    "unknown architecture": ("prune", at("model.arch", "zoo:nothing"), "nothing"),
    "no architecture": ("train", both(at("model", {}), given("--no-checkpoint")), "names no architecture"),
    "kwargs of another": ("prune", at("model.kwargs.widths", [6, 9]), "net.pt"),
    "unknown kwarg": ("prune", at("model.kwargs.depth", 3), "depth"),
    "factory without file": ("prune", at("model.arch", "gone.py:make"), "gone.py"),
    "factory that is not there": ("prune", at("model.arch", "mine.py:gone"), "gone"),
    "factory that fails": ("prune", at("model", {"arch": "mine.py:broken"}), "broken"),
    "input shape of another": ("prune", at("model.input_shape", [1, 9, 9]), "an input is [1, 8, 8]"),
    "channels of another": ("prune", at("model.input_shape", [3, 8, 8]), "an input is [1, 8, 8]"),
    "normalisation of another": ("prune", at("data.normalize", {"mean": [0, 0, 0], "std": [1, 1, 1]}), "3 channels"),
    "nothing to learn from": ("train", both(at("train.distill", {}), given("--no-checkpoint")), "train.distill"),
    "no validation for bypass": ("bypass", at("data.validation", 0), "data.validation"),
    "yaml that is none": ("prune", text("mine.yaml", "model: [1, 2"), "mine.yaml"),
    "key given twice": ("prune", text("mine.yaml", "seed: 1\nseed: 2\n"), "given twice"),
    "recipe that is not there": ("prune", given("--recipe", "gone.yaml"), "gone.yaml"),
    "--set without a value": ("prune", given("--set", "prune.ratio"), "should look like"),
    # the command line and outputs
    "unknown device": ("prune", given("--device", "tpu9"), "tpu9"),
    "output that exists": ("prune", text("out.safetensors", ""), "exists already"),
    "output without folder": ("train", given("--out", "gone/x.safetensors"), "gone"),
    "output of another kind": ("prune", given("--out", "x.onnx"), ".safetensors"),
    "report of another kind": ("bypass", given("--report", "x.pdf"), ".html"),
    "resume of a try": ("prune", given("--resume"), "--resume"),
    "plan of another model": ("prune", plan({"name": "layer1", "remove": [1]}), "is no group"),
    "plan that takes all": ("prune", plan({"name": "stages.1.0.conv1", "remove": list(range(8))}), "too many"),
    "plan that is none": ("prune", both(text("p.json", "{}"), given("--plan", "p.json")), "is no plan"),
    # data
    "data that are not there": ("prune", at("data.root", "gone.npz"), "gone.npz"),
    "data cut off": ("prune", cut_off("data.npz"), "data.npz"),
    "data that are none": ("prune", text("data.npz", "x"), "data.npz"),
    "no targets": ("prune", arrays(x_train=X, x_test=X), "y_train"),
    "targets of other samples": ("prune", arrays(x_train=X, y_train=Y[:9], x_test=X, y_test=Y), "9"),
    "pickled arrays": ("prune", arrays(x_train=X.astype(object), y_train=Y), "data.npz"),
    "no samples": ("prune", arrays(x_train=X[:0], y_train=Y[:0], x_test=X, y_test=Y), "no samples"),
    "NaN in an input": ("prune", pixels(lambda x: x.__setitem__((7, 0, 0, 0), np.nan)), "sample 7 holds NaN"),
    "infinity in an input": ("train", pixels(lambda x: x.__setitem__((59, 0, 1, 1), np.inf)), "sample 59 holds NaN"),
    "label below 0": ("prune", labels(lambda y: y.__setitem__(5, -1)), "-1"),
    "label beyond the outputs": ("prune", labels(lambda y: y.__setitem__(5, 12)), "13"),
    "user data without file": ("prune", at("data.dataset", "gone.py:load"), "gone.py"),
    "user data that fail": ("prune", user_data("fails"), "no such disk"),
    "user data of another kind": ("train", user_data("nothing"), "nothing"),
    "a late sample that fails": ("prune", user_data("raises"), "sample 47"),
    "a late sample of NaN": ("prune", user_data("nan"), "NaN"),
    "a late label beyond": ("train", user_data("label"), "12"),
    "a late sample of another shape": ("train", user_data("shape"), "[1, 4, 8]"),
    # checkpoints
    "an empty file": ("prune", text("net.pt", ""), "net.pt"),
    "a checkpoint cut off": ("prune", cut_off("net.pt"), "net.pt"),
    "text for a checkpoint": ("bypass", text("net.pt", "weights"), "net.pt"),
    "a pickled module": ("prune", pickled, "--trust-pickle"),
    "weights that are NaN": ("prune", weights(lambda state: state["fc.weight"].fill_(np.nan)), "not finite"),
    "a tensor too few": ("prune", weights(lambda state: state.pop("fc.weight")), "fc.weight"),
    "a tensor of another shape": ("train", weights(lambda s: s.update({"fc.bias": torch.zeros(9)})), "fc.bias"),
    "no tensors": ("prune", weights(lambda state: state.clear()), "net.pt"),
    "nothing that can go": ("prune", nothing_to_prune, "no filter of this model can be pruned"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(scene: Scene, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, seed, says = FAULTS[fault]
    seed(scene)
    scene.write()
    before = sorted(path.name for path in scene.folder.rglob("*") if "__pycache__" not in path.parts)
    with pytest.raises(ExtconError) as caught:
        dry_run(scene, command)
    assert says in str(caught.value)
    assert caught.value.exit_code in (2, 3, 4)
    assert capsys.readouterr().out == ""
    assert sorted(p.name for p in scene.folder.rglob("*") if "__pycache__" not in p.parts) == before


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 50
