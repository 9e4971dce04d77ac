"""Latency is a phase of its own, said while it goes on, and can be left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from extcon_cli.checkpoint.architectures import build
from extcon_cli.errors import TraceError
from extcon_cli.events import Event, Noted, PhaseEnded, PhaseStarted
from extcon_cli.pipelines.already_zero import already_zero
from extcon_cli.pipelines.running import measure
from extcon_cli.pipelines.running.gates import Limits
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import LatencySpec
from extcon_cli.report.document import timing
from extcon_cli.report.results.records import ModelStats, Size
from extcon_cli.tasks import Regression


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
    phases = ["open", "groups", "remove", "write", *(["latency"] if wanted else [])]
    assert [e.phase for e in events if isinstance(e, PhaseStarted)] == phases
    assert [e.phase for e in events if isinstance(e, PhaseEnded)] == phases
    for stats in (result.before, result.after):
        assert (stats.latency is not None) == wanted
    if result.latency is not None:
        assert [one.batch_size for one in result.latency] == [1, 64]
        assert all(one.ratio.low <= one.ratio.median <= one.ratio.high for one in result.latency)
        assert result.after.latency == {str(one.batch_size): one.after.median for one in result.latency}
        assert result.latency[0].runtime.startswith("torch ")
        assert result.latency[0].device
        assert result.latency[0].threads == torch.get_num_threads()
    assert ("latency as a share" in timing(result.latency)) == wanted


def stats(seconds: float | None) -> ModelStats:
    return ModelStats({}, Size(1, 1, 1), {"8": seconds, "64": 9.0} if seconds is not None else None)


@pytest.mark.parametrize(("limit", "passed"), [("0.5", True), ("0.3", False), ("4ms", True), ("0.003s", False)])
def test_a_gate_holds_latency_to_a_time_or_a_share(limit: str, passed: bool) -> None:
    (gate,) = Limits(max_latency=limit).checked(Regression(), stats(0.01), stats(0.004))
    assert (gate.name, gate.passed, gate.value) == ("max-latency", passed, 0.004)
    assert f"a batch of 8 takes 4 ms, 0.400 of the original, {'within' if passed else 'more than'}" in gate.message


def test_a_gate_that_nothing_was_measured_for_has_failed() -> None:
    (gate,) = Limits(max_latency="4ms").checked(Regression(), stats(None), stats(None))
    assert not gate.passed


def test_a_runtime_that_refuses_the_model_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TraceError("the model cannot be exported: why")

    monkeypatch.setattr(measure, "latency", refuse)
    events: list[Event] = []
    before, after, times = measure.timed(
        stats(None), stats(None), (torch.nn.Identity(),) * 2, (), LatencySpec(runtime="openvino"), emit=events.append
    )
    assert before.latency is after.latency is times is None
    assert Noted("latency is not measured: the model cannot be exported: why", warning=True) in events
    assert isinstance(events[-1], PhaseEnded)
