"""Checkpoints of Ultralytics: what is one, what its YAML can say, and what Ultralytics makes of a pruned one."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from extcon_cli.checkpoint.ultralytics.look import is_ultralytics
from extcon_cli.cli.app import app
from extcon_cli.errors import CheckpointError, DataError, UsageError

pytestmark = pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not installed")


def prune(checkpoint: Path, data: Path, *options: str) -> Any:
    quick = ("prune.finetune.steps=0", "prune.score.batches=2", "data.batch_size=4", "prune.compensate.images=8")
    changes = [word for change in quick for word in ("--set", change)]
    arguments = ["prune", str(checkpoint), "--data", str(data), "--no-latency", "--json", *changes, *options]
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    "task",
    [
        "detect",
        "classify",
        pytest.param("segment", marks=pytest.mark.slow),
        pytest.param("pose", marks=pytest.mark.slow),
    ],
)
def test_ultralytics_opens_trains_and_exports_what_was_pruned(made: Any, task: str, tmp_path: Path) -> None:
    from ultralytics import YOLO
    from ultralytics.nn import tasks

    data, file = made.pictures(tmp_path / "data", task), made.checkpoint(tmp_path / "tiny.pt", task, half=True)
    assert is_ultralytics(file)
    ran = prune(file, data, "--ratio", "0.3", "--trust-pickle")
    assert ran.exit_code == 0, (ran.stderr, ran.exception)
    result = json.loads(ran.stdout)
    assert result["certificate"]["exact"]
    assert result["folder"]["plain_difference"] <= 1e-5
    assert set(result["after"]["metrics"]) & {"map", "accuracy"}
    assert result["after"]["params"] < 0.8 * result["before"]["params"]
    small = tmp_path / "tiny.pruned.pt"
    with zipfile.ZipFile(small) as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    assert b"cextcon_cli" not in pickled, "no class of ours is in it"
    opened = YOLO(str(small))
    assert opened.task == task
    assert sum(p.numel() for p in opened.model.parameters()) == result["after"]["params"]
    assert next(opened.model.parameters()).dtype == torch.float32
    # what `yolo train` does first: build from the YAML, and take all weights over
    again = getattr(tasks, f"{made.CLASSES[task]}Model")(opened.model.yaml, nc=2, verbose=False)
    again.load_state_dict(opened.model.state_dict(), strict=True)
    exported = opened.export(format="torchscript", imgsz=made.SIZE, device="cpu", verbose=False)
    picture = torch.rand(1, 3, made.SIZE, made.SIZE)
    wanted = opened.model.eval()(picture)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    got = torch.jit.load(exported)(picture)
    got = got[0] if isinstance(got, tuple) else got
    assert torch.allclose(got, wanted, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.slow
def test_free_widths_are_validated_and_not_trained(made: Any, tmp_path: Path) -> None:
    from ultralytics import YOLO

    data, file = made.pictures(tmp_path / "data", "detect"), made.checkpoint(tmp_path / "tiny.pt", "detect")
    ran = prune(file, data, "--params", "0.6", "--trust-pickle", "--set", "prune.widths=free", "--out", str(file) + "x")
    assert isinstance(ran.exception, UsageError), "the output is a .pt"
    ran = prune(file, data, "--params", "0.6", "--trust-pickle", "--set", "prune.widths=free")
    assert ran.exit_code == 0, (ran.stderr, ran.exception)
    result = json.loads(ran.stdout)
    assert result["folder"]["plain_difference"] is None
    assert result["after"]["params"] <= 0.6 * result["before"]["params"]
    opened = YOLO(str(tmp_path / "tiny.pruned.pt"))
    for block in opened.model.model:
        if type(block).__name__ == "C2f":
            assert block.cv1.conv.out_channels == 2 * block.c, "exports split by it"
    with pytest.raises(KeyError, match="widths_that_no_yaml_says"):
        type(opened.model)(opened.model.yaml, verbose=False)


@pytest.mark.slow
@pytest.mark.parametrize("flow", [True, False])
def test_its_own_trainer_trains(made: Any, flow: bool, tmp_path: Path) -> None:
    from ultralytics import YOLO

    data, file = made.pictures(tmp_path / "data", "detect"), made.checkpoint(tmp_path / "tiny.pt", "detect")
    changes = ["prune.finetune.steps=2"]
    changes += ["prune.bifurcate.method=flow", "prune.bifurcate.steps=4", "prune.bifurcate.epochs=null"] if flow else []
    options = [word for change in changes for word in ("--set", change)]
    ran = prune(file, data, "--ratio", "0.3", "--trust-pickle", *options)
    assert ran.exit_code == 0, (ran.stderr, ran.exception)
    result = json.loads(ran.stdout)
    assert result["certificate"]["exact"]
    assert result["folder"]["plain_difference"] <= 1e-5
    opened = YOLO(str(tmp_path / "tiny.pruned.pt"))
    assert sum(p.numel() for p in opened.model.parameters()) == result["after"]["params"] < result["before"]["params"]
    assert ("bifurcate" if flow else "finetune") in result["seconds"]
    assert not list(tmp_path.glob("*.run")), "what it wrote on the way is gone"


@pytest.mark.parametrize("reached", [0.4, 0.6])
def test_the_better_of_before_and_after_fine_tuning_is_kept(reached: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from extcon_cli.pipelines import ultralytics as pipeline

    @dataclass(frozen=True)
    class Removed:
        module: Any

    before, after, told = SimpleNamespace(map=0.5), SimpleNamespace(map=reached), list[Any]()
    monkeypatch.setattr(pipeline, "at_once", lambda *_: Removed(before))
    monkeypatch.setattr(pipeline, "finetuned", lambda run, module: after if module is not before else None)
    session = SimpleNamespace(figures=lambda module: {"map": module.map})
    recipe = SimpleNamespace(prune=SimpleNamespace(bifurcate=SimpleNamespace(method="none")))
    yolo = SimpleNamespace(task="detect")
    run: Any = SimpleNamespace(recipe=recipe, epochs=3, session=session, yolo=yolo, emit=told.append)
    says, stats = SimpleNamespace(finish=lambda *_: None), SimpleNamespace(size=None)
    removal, moved = pipeline._removed(run, before, before, says, None, stats)  # type: ignore[arg-type]
    assert removal.module is (after if reached > 0.5 else before)
    assert [event.warning for event in told] == ([] if reached > 0.5 else [True])
    assert moved == ({"map": 0.5}, {"map": 0.5})


def test_nothing_is_unpickled_without_trust(made: Any, tmp_path: Path) -> None:
    file = made.checkpoint(tmp_path / "tiny.pt", "detect")
    ran = prune(file, made.pictures(tmp_path / "data", "detect"), "--ratio", "0.3")
    assert isinstance(ran.exception, CheckpointError)
    assert "--trust-pickle" in str(ran.exception)


def test_what_cannot_work_is_refused(made: Any, tmp_path: Path) -> None:
    file, data = made.checkpoint(tmp_path / "tiny.pt", "detect"), made.pictures(tmp_path / "data", "detect")
    refused = prune(file, data, "--ratio", "0.3", "--trust-pickle", "--set", "prune.score.method=race")
    assert isinstance(refused.exception, UsageError)
    assert "energy" in str(refused.exception)
    resumed = prune(file, data, "--ratio", "0.3", "--resume")
    assert isinstance(resumed.exception, UsageError)
    content = json.loads(data.read_text())
    data.write_text(json.dumps({**content, "names": ["disc", "box", "line"]}))
    other = prune(file, data, "--ratio", "0.3", "--trust-pickle")
    assert isinstance(other.exception, DataError)
    assert "3 classes, the model 2" in str(other.exception)
    missing = prune(file, tmp_path / "none.yaml", "--ratio", "0.3", "--trust-pickle")
    assert isinstance(missing.exception, DataError)
    assert not list(tmp_path.glob("*.pruned*")), "nothing is left"


def test_other_files_are_none_of_its_checkpoints(tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("ultralytics.nn.tasks")
    assert not any(is_ultralytics(tmp_path / name) for name in ("state.pt", "text.pt", "missing.pt"))


@pytest.mark.parametrize(("scale", "width"), [("n", 0.25), ("m", 0.5)])
def test_a_yaml_is_written_out_whatever_scales_it(scale: str, width: float) -> None:
    """C3k2 has other blocks inside in larger models, which its row does not say."""
    from ultralytics.nn.tasks import DetectionModel

    from extcon_cli.checkpoint.ultralytics.config import widths, with_widths, written_out
    from extcon_cli.checkpoint.ultralytics.library import library

    assert library().__version__
    backbone = [[-1, 1, "Conv", [64, 3, 2]], [-1, 2, "C3k2", [64, False, 0.25]], [-1, 2, "C2PSA", [128]]]
    rows = {"backbone": backbone, "head": [[[1, 2], 1, "Detect", ["nc"]]]}
    config = {"nc": 2, "scales": {scale: [0.5, width, 512]}, "scale": scale, **rows}
    config["backbone"][2] = [-1, 1, "Conv", [128, 3, 2]]  # type: ignore[index]
    model = DetectionModel(json.loads(json.dumps(config)), verbose=False)
    said = written_out(model)
    assert not {"scales", "scale"} & said.keys()
    numbers = {one.name: one for one in widths(said)}
    assert numbers["row 1, hidden"].value == 64 * width * 0.25
    changed = with_widths(said, {numbers["row 1, channels"]: 8, numbers["row 1, hidden"]: 3})
    again = DetectionModel(changed, verbose=False)
    assert (again.model[1].c, again.model[1].cv2.conv.out_channels) == (3, 8)
