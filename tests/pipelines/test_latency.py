"""Latency is a phase of its own, said while it goes on, and can be left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from extcon_cli.checkpoint.architectures import build
from extcon_cli.events import Event, PhaseEnded, PhaseStarted
from extcon_cli.pipelines.already_zero import already_zero
from extcon_cli.recipe.load import from_dict


@pytest.mark.parametrize("wanted", [True, False])
def test_latency(tmp_path: Path, wanted: bool) -> None:
    net = build("zoo:mlp", {"in_features": 4, "widths": [6], "num_classes": 3})
    with torch.no_grad():
        net.layers[0].weight[:2], net.layers[0].bias[:2] = 0, 0  # type: ignore[index]
    torch.save(net.state_dict(), tmp_path / "net.pt")
    recipe = from_dict(
        {
            "model": {
                "arch": "zoo:mlp",
                "kwargs": {"in_features": 4, "widths": [6], "num_classes": 3},
                "input_shape": [4],
            }
        }
    )
    events: list[Event] = []
    result = already_zero(
        tmp_path / "net.pt", recipe, output=tmp_path / "o.safetensors", latency=wanted, emit=events.append
    )
    phases = ["remove", "latency"] if wanted else ["remove"]
    assert [e.phase for e in events if isinstance(e, PhaseStarted)] == phases
    assert [e.phase for e in events if isinstance(e, PhaseEnded)] == phases
    for stats in (result.before, result.after):
        assert (stats.latency is not None) == wanted
