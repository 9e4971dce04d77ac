"""`prune.data: none`: inputs are made of the model, nothing is trained, and what is left still works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import extcon_cli
from extcon_cli.checkpoint.trust import Trust
from extcon_cli.checkpoint.zoo import ZOO
from extcon_cli.data.datasets import open_data
from extcon_cli.errors import UsageError
from extcon_cli.events import Event, Noted, PhaseStarted
from extcon_cli.pipelines.at_once import prune_at_once
from extcon_cli.pipelines.pruning import made_inputs
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.recipe.load import from_dict, resolve
from extcon_cli.recipe.schema import DataSpec, Recipe

SAMPLE = Path(__file__).parents[2] / "sample_models" / "digits_resnet.pt"


def recipe(*overrides: str) -> Recipe:
    return resolve("prune", overrides=["prune.data=none", *overrides]).recipe


def accuracy(model: nn.Module) -> float:
    data = open_data(DataSpec(dataset="digits"), "classification", seed=0)
    batches = list(data.eval_loader("test", device=torch.device("cpu")))
    with torch.no_grad():
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches) / sum(len(y) for _, y in batches)


@pytest.mark.slow
def test_the_sample_keeps_its_accuracy_without_seeing_a_digit(tmp_path: Path) -> None:
    events: list[Event] = []
    result = prune_at_once(SAMPLE, recipe("prune.ratio=0.5"), output=tmp_path / "made.safetensors", emit=events.append)
    assert result.removal.ratio == pytest.approx(0.5, abs=0.01)
    assert accuracy(extcon_cli.load(tmp_path / "made.safetensors")) > 0.95  # 9.7 % by norms and without hand-over
    assert [event.phase for event in events if isinstance(event, PhaseStarted)][:2] == ["inputs", "remove"]
    assert not any(isinstance(event, Noted) and event.warning for event in events)


def test_a_narrow_net_and_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_inputs, "STEPS", 3)
    model = {"arch": "zoo:digits_resnet", "kwargs": {"widths": [6, 8], "blocks": 1}, "input_shape": [1, 8, 8]}
    values: dict[str, Any] = {"model": model, "prune": {"data": "none", "target": {"macs": 0.6}}}
    torch.manual_seed(0)
    net = ZOO["digits_resnet"].build(widths=[6, 8], blocks=1)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for name in ("one", "two"):
        result = prune_at_once(tmp_path / "net.pt", from_dict(values), output=tmp_path / f"{name}.safetensors")
    assert result.after.size.macs <= 0.6 * result.before.size.macs
    assert result.certificate.exact
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_what_has_neither_statistics_nor_text_is_refused(tmp_path: Path) -> None:
    mlp = SAMPLE.with_name("digits_mlp_stalled.pt")
    told = resolve("prune", checkpoint=mlp, overrides=["prune.data=none"]).recipe
    with pytest.raises(UsageError, match=r"batch norm's statistics.*causal language model.*--data"):
        prune_at_once(mlp, told, output=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_statistics_that_are_not_reached_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_inputs, "STEPS", 1)
    notes: list[Event] = []
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    nn.init.constant_(net[1].running_mean, 100)
    torch.save(net, tmp_path / "net.pt")
    opened = open_model(tmp_path / "net.pt", recipe("model.input_shape=[1,4,4]"), trust=Trust(pickle=True))
    made_inputs.made_inputs(opened, 4, emit=notes.append)
    assert any("far from batch norm's statistics" in note.message for note in notes if isinstance(note, Noted))


def test_scores_that_need_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="energy needs labels"):
        prune_at_once(SAMPLE, recipe("prune.score.method=energy"), output=tmp_path / "out.safetensors")
