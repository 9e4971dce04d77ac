"""Bad input: one clear line, the right exit code, no traceback, nothing left behind."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from extcon_cli.checkpoint.ultralytics.look import NAME
from extcon_cli.cli.app import app
from extcon_cli.errors import RecipeError, UsageError

from .conftest import Extcon

USAGE, UNREADABLE = 2, 3


@pytest.mark.parametrize("ratio", ["0", "1", "-1", "1.5", "abc", "nan"])
def test_a_ratio_that_is_no_share(extcon: Extcon, place: Path, ratio: str) -> None:
    done = extcon("prune", "digits_resnet.pt", "--ratio", ratio)
    assert (done.code, done.out) == (USAGE, "")
    assert "--ratio" in done.error
    assert sorted(path.name for path in place.iterdir()) == ["digits_resnet.pt", "digits_resnet.yaml"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["prune"], USAGE, "CKPT"),
        (["prun"], USAGE, "prune"),
        (["prune", "digits_resnet.pt", "--bogus"], USAGE, "--bogus"),
        (["prune", "digits_resnet.pt", "--max-drop", "-1"], USAGE, "--max-drop"),
        (["prune", "digits_resnet.pt", "--out", "missing/x.safetensors"], USAGE, "missing"),
        (["prune", "digits_resnet.pt", "--out", "x.pt"], USAGE, ".safetensors"),
        (["prune", "digits_resnet.pt", "--report", "x.pdf"], USAGE, ".html"),
        (["prune", "digits_resnet.pt", "--set", "train.optimzer.lr=1"], USAGE, "optimizer"),
        (["prune", "digits_resnet.pt", "--set", "prune.ratio"], USAGE, "prune.ratio"),
        (["prune", "digits_resnet.pt", "--recipe", "nope.yaml"], USAGE, "nope.yaml"),
        (["prune", "digits_resnet.pt", "--seed", "-1"], USAGE, "seed"),
        (["prune", "digits_resnet.pt", "--set", "data.dataset=arrays", "--set", "data.root=no.npz"], 3, "no.npz"),
        (["prune", "digits_resnet.pt", "--set", "model.arch=zoo:nothing"], USAGE, "nothing"),
        (["prune", "digits_resnet.pt", "--set", "model.arch=zoo:cifar_resnet20"], UNREADABLE, "digits_resnet"),
        (["prune", "digits_resnet.pt", "--device", "tpu9"], USAGE, "tpu9"),
        (["prune", "digits_resnet.pt", "--macs", "1.5"], USAGE, "--macs"),
        (["prune", "digits_resnet.pt", "--macs", "0.5", "--ratio", "0.5"], USAGE, "--ratio and --macs"),
        (["prune", "digits_resnet.pt", "--size", "10 mega"], USAGE, "10MB"),
        (["prune", "digits_resnet.pt", "--latency", "2"], USAGE, "4ms"),
        (["plan", "digits_resnet.pt", "--runtime", "tensorrt"], USAGE, "onnxruntime"),
        (["prune", "digits_resnet.pt", "--no-latency", "--max-latency", "4ms"], USAGE, "--no-latency"),
        (["prune", "digits_resnet.pt", "--plan", "no.json"], UNREADABLE, "no.json"),
        (["prune", "digits_resnet.pt", "--plan", "no.json", "--macs", "0.5"], USAGE, "--plan says what goes"),
        (["plan", "digits_resnet.pt", "--samples", "-1"], USAGE, "--samples"),
        (["plan", "digits_resnet.pt", "--out", "plan.yaml"], USAGE, ".json"),
        (["prune", "missing.pt"], UNREADABLE, "missing.pt"),
        (["prune", "empty"], UNREADABLE, "is a folder with no checkpoint file"),
        (["evaluate", "digits_resnet.pt", "--split", "dev"], USAGE, "validation"),
        (["train"], USAGE, "--recipe"),
        (["inspect", "missing.pt"], UNREADABLE, "missing.pt"),
        (["recipe", "show", "prune/digit_resnet"], USAGE, "digits_resnet"),
    ],
)
def test_refused_by_name(extcon: Extcon, place: Path, args: list[str], code: int, says: str) -> None:
    (place / "empty").mkdir()
    done = extcon(*args)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert "Traceback" not in done.err
    assert done.err.strip().splitlines()[0].startswith("extcon: error: ") or "extcon: error: " in done.err
    assert not list(place.glob("*.safetensors"))


def test_a_typo_in_a_recipe_is_named_with_its_line(extcon: Extcon, place: Path) -> None:
    (place / "mine.yaml").write_text("task: classification\ntrain:\n  optimzer: {lr: 0.1}\n")
    done = extcon("prune", "digits_resnet.pt", "--recipe", "mine.yaml")
    assert done.code == USAGE
    assert "mine.yaml:3" in done.err
    assert "optimizer" in done.err


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "another"])
def test_a_checkpoint_that_is_none(extcon: Extcon, place: Path, damage: str) -> None:
    path = place / "digits_resnet.pt"
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello", "another": b"\x80\x04"}[damage]
    )
    done = extcon("prune", "digits_resnet.pt")
    assert done.code == UNREADABLE
    assert "digits_resnet.pt" in done.error


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("prune", "digits_resnet.pruned.safetensors"),
        ("bypass", "digits_resnet.bypassed.safetensors"),
        ("train", "digits_resnet.trained.safetensors"),
        ("plan", "digits_resnet.plan.json"),
    ],
)
def test_a_recipe_is_refused_before_an_output_that_exists(place: Path, command: str, output: str) -> None:
    (place / output).touch()
    done = CliRunner().invoke(app, [command, str(place / "digits_resnet.pt"), "--set", "train.optimzer.lr=1"])
    assert isinstance(done.exception, RecipeError)
    assert "optimizer" in str(done.exception)
    kept = CliRunner().invoke(app, [command, str(place / "digits_resnet.pt")])
    assert isinstance(kept.exception, UsageError)
    assert f"{output} exists already" in str(kept.exception)


def test_a_pruned_model_is_no_state_dict_and_the_way_to_one_is_said(extcon: Extcon, place: Path) -> None:
    assert "--export state-dict" in extcon("prune", "digits_resnet.pt", "--out", "x.pt").error


def test_an_existing_output_is_kept(extcon: Extcon, place: Path) -> None:
    output = place / "digits_resnet.pruned.safetensors"
    output.write_bytes(b"mine")
    done = extcon("prune", "digits_resnet.pt")
    assert done.code == USAGE
    assert "--force" in done.error
    assert output.read_bytes() == b"mine"


def test_data_are_needed(extcon: Extcon, place: Path) -> None:
    (place / "digits_resnet.yaml").unlink()
    done = extcon("prune", "digits_resnet.pt")
    assert done.code == USAGE
    assert "  data.dataset: --data PATH" in done.err
    assert "Put this recipe beside it as digits_resnet.yaml" in done.err


def test_code_in_a_sidecar_does_not_run(extcon: Extcon, place: Path) -> None:
    (place / "factory.py").write_text("open('ran', 'w').close()\ndef net():\n    raise SystemExit\n")
    sidecar = place / "digits_resnet.yaml"
    sidecar.write_text(sidecar.read_text().replace("zoo:digits_resnet", "factory.py:net"))
    done = extcon("prune", "digits_resnet.pt")
    assert done.code in (USAGE, UNREADABLE)
    assert "--trust-code" in done.error
    assert not (place / "ran").exists()


def test_a_wrong_override_is_one_line_and_does_not_blame_the_sidecar(extcon: Extcon, place: Path) -> None:
    done = extcon("prune", "digits_resnet.pt", "--set", "prune.raito=0.5")
    assert done.code == USAGE
    assert done.err.strip() == "extcon: error: --set prune.raito: unknown key (did you mean 'ratio'?)"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--resume"], "--resume: Ultralytics' trainer begins anew"),
        (["--export", "onnx"], "--export: prune first, then run yolo export"),
        (["--ratio", "0.3,0.5"], "several targets: run it once for each target"),
    ],
)
def test_what_a_checkpoint_of_ultralytics_does_not_take(tmp_path: Path, more: list[str], says: str) -> None:
    with zipfile.ZipFile(tmp_path / "yolo.pt", "w") as archive:
        archive.writestr("yolo/data.pkl", NAME)
    done = CliRunner().invoke(app, ["prune", str(tmp_path / "yolo.pt"), *more])
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)
