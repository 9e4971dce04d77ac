"""Switches of training steps together with the flow, with averaged weights and with what a run measures itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import extcon_cli
from extcon_cli.checkpoint.architectures import build
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.running import trial
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.report.serialise import to_json
from extcon_cli.training import speed as speeds
from extcon_cli.training.speed import Speed

MODEL = {"arch": "zoo:digits_resnet", "kwargs": {"widths": [6, 8], "blocks": 1}, "input_shape": [1, 8, 8]}
DATA = {"dataset": "digits", "batch_size": 100, "augment": {"crop_padding": 1}}
FLOW: dict[str, Any] = {"ratio": 0.5, "score": {"batches": 2}, "bifurcate": {"method": "flow", "steps": 12}}
ALL = {"mixed_precision": "bf16", "channels_last": True, "compile": True}
AUTO = {"mixed_precision": "auto", "channels_last": "auto"}


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile records the model and runs it by torch's own operators: no C++ compiler."""
    monkeypatch.setattr(speeds, "BACKEND", "eager")
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("switches", [ALL, AUTO], ids=["all", "auto"])
def test_the_flow_ends_exactly_and_the_average_is_written(
    switches: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Speed("bf16", channels_last=True)
    monkeypatch.setattr(trial, "fastest", lambda *_: (chosen, "steps in bf16 and channels_last"))
    torch.manual_seed(0)
    dense, output = tmp_path / "dense.pt", tmp_path / "small.safetensors"
    torch.save(build(MODEL["arch"], MODEL["kwargs"]).state_dict(), dense)
    finetune = {"steps": 8, "optimizer": {"lr": 0.02}, "average": 0.5, **switches}
    recipe = from_dict({"model": MODEL, "data": DATA, "prune": {**FLOW, "finetune": finetune}})
    result = to_json(prune(dense, recipe, output=output, device="cpu"))
    expected = {"precision": "bf16", "channels_last": True, "compile": switches is ALL}
    assert result["speed"] == expected
    assert result["certificate"]["exact"]
    assert result["after"]["params"] < result["before"]["params"]
    small = extcon_cli.load(output)
    assert all(p.dtype == torch.float32 and p.is_contiguous() and bool(p.isfinite().all()) for p in small.parameters())


def test_the_average_of_compiled_steps_is_that_of_plain_ones(tmp_path: Path) -> None:
    def trained(name: str, **switches: Any) -> dict[str, torch.Tensor]:
        spec = {"steps": 10, "optimizer": {"lr": 0.02}, "average": 0.5, **switches}
        output = tmp_path / f"{name}.safetensors"
        train(from_dict({"model": MODEL, "data": DATA, "train": spec}), checkpoint=None, output=output, device="cpu")
        return extcon_cli.load(output).state_dict()

    plain, found = trained("plain"), trained("switched", channels_last=True, compile=True)
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4 * float(tensor.double().abs().max()))
