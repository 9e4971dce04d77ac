"""`extcon bypass` as a specification: it never ends worse than it began, says what it did, and resumes to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import extcon_cli
from extcon_cli.errors import GateError, Interrupted
from extcon_cli.events import Event, Progress
from extcon_cli.pipelines.bypass import bypass
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.training.run_directory import RunDirectory

RECIPE = {
    "model": {"arch": "zoo:mlp", "kwargs": {"in_features": 64, "widths": [16]}, "input_shape": [1, 8, 8]},
    "data": {"dataset": "digits", "batch_size": 64},
    "train": {"epochs": 2, "optimizer": {"name": "adam", "lr": 0.2}, "schedule": {"name": "constant"}, "keep": "last"},
    "bypass": {"probe": {"steps": 20}, "opt_1": {"steps": 30}, "opt_2": {"steps": 30}, "train_3": {"steps": 20}},
}


@pytest.fixture(scope="module")
def stalled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stalled") / "mlp.safetensors"
    train(from_dict(RECIPE), checkpoint=None, output=path, device="cpu")
    return path


def run(stalled: Path, output: Path, **more: Any) -> dict[str, Any]:
    recipe = from_dict(RECIPE, overrides=more.pop("overrides", ()))
    return bypass(stalled, recipe, output=output, device="cpu", **{"go_on": True, **more})


def test_the_result_is_never_worse_on_validation(stalled: Path, tmp_path: Path) -> None:
    document = run(stalled, tmp_path / "out.safetensors")
    losses = document["validation"]
    assert set(losses) == {"theta*", "baseline", "lr_drop", "bypassed"}
    assert losses[document["verdict"]] == min(losses[name] for name in losses if name != "lr_drop")
    assert document["certificate"]["contracted"]
    for gap in ("embed_difference", "projection_difference", "difference_after_contraction"):
        assert document["certificate"][gap] == 0
    assert document["before"]["params"] == document["after"]["params"]
    assert isinstance(extcon_cli.load(tmp_path / "out.safetensors")(torch.zeros(1, 1, 8, 8)), torch.Tensor)


def test_a_penalty_that_misses_gives_no_bypassed_model(stalled: Path, tmp_path: Path) -> None:
    few = ["bypass.opt_2.method=penalty", "bypass.opt_2.gamma=1e-6"]
    document = run(stalled, tmp_path / "out.safetensors", overrides=few)
    assert "bypassed" not in document["validation"]
    assert document["certificate"] == {"embed_difference": 0.0, "contracted": False}
    with pytest.raises(GateError, match="no gain"):
        run(stalled, tmp_path / "gate.safetensors", overrides=few, require_gain=True)
    assert not (tmp_path / "gate.safetensors").exists()


def test_the_probe_stops_a_run_that_would_gain_nothing(stalled: Path, tmp_path: Path) -> None:
    document = run(stalled, tmp_path / "out.safetensors", overrides=["bypass.probe.gain=0.999"], go_on=False)
    assert document["verdict"] == "no gain expected"
    assert document["before"] == document["after"] | {"latency": document["before"]["latency"]}


@pytest.mark.parametrize("phase", ["baseline", "bypassed"])
def test_a_resumed_run_ends_with_the_same_bytes(
    stalled: Path, tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunDirectory, "due", lambda self: True)
    monkeypatch.setattr("extcon_cli.pipelines.phase.PROGRESS_EVERY", 0)
    whole, broken = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    run(stalled, whole)

    def kill(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == phase and event.done == 45:  # in opt_2
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="--resume"):
        run(stalled, broken, emit=kill)
    run(stalled, broken, resume=True)
    assert whole.read_bytes() == broken.read_bytes()
