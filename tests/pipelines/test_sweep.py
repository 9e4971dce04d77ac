"""Several targets at once: scored once, each result that of a pruning by itself, and Ctrl-C loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from extcon_cli.checkpoint.zoo import ConvNet
from extcon_cli.cli.app import app
from extcon_cli.cli.resolve import aim, aims
from extcon_cli.errors import GateError, Interrupted, UsageError
from extcon_cli.events import Event, PhaseStarted, RunStarted
from extcon_cli.pipelines import sweep as sweeping
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.pruning.knee import knee
from extcon_cli.pipelines.running.gates import Limits
from extcon_cli.pipelines.sweep import Member, sweep
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.prune import SweepResult
from extcon_cli.report.serialise import json_schema

MODEL = {"arch": "zoo:convnet", "kwargs": {"widths": [8, 8], "channels": 1}, "input_shape": [1, 8, 8]}
DATA = {"dataset": "digits", "batch_size": 100}
PRUNE = {"score": {"method": "energy", "batches": 2}, "finetune": {"steps": 4, "optimizer": {"lr": 0.01}}}


def recipe(ratio: float) -> Recipe:
    return from_dict({"model": MODEL, "data": DATA, "prune": {**PRUNE, "ratio": ratio}})


@pytest.fixture
def net(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(ConvNet(widths=(8, 8), channels=1).state_dict(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each time that filters are scored."""
    times: list[int] = []
    real = sweeping.score

    def counted(pruning: Any) -> Tensor:
        times.append(1)
        return real(pruning)

    monkeypatch.setattr(sweeping, "score", counted)
    return times


def run(net: Path, *, name: str = "out", ratios: tuple[float, ...] = (0.3, 0.6), **others: Any) -> SweepResult:
    output = net.with_name(f"{name}.safetensors")
    members = [Member(f"{ratio:g}", recipe(ratio), net.with_name(f"{name}-{ratio:g}.safetensors")) for ratio in ratios]
    return sweep(net, members, quantity="ratio", output=output, device="cpu", latency=False, keep_run=False, **others)


def bytes_of(net: Path, name: str) -> dict[str, bytes]:
    return {path.stem.removeprefix(name): path.read_bytes() for path in net.parent.glob(f"{name}-*.safetensors")}


def test_a_result_is_that_of_a_pruning_by_itself_and_a_kill_loses_nothing(net: Path, scored: list[int]) -> None:
    whole = run(net)
    assert len(scored) == 1
    assert [point.asked for point in whole.points] == ["0.3", "0.6"]
    assert [path.name for path in net.parent.glob("*.run")] == []
    alone = net.with_name("alone.safetensors")
    prune(net, recipe(0.6), output=alone, device="cpu", latency=False, keep_run=False)
    assert alone.read_bytes() == bytes_of(net, "out")["-0.6"]

    scored.clear()
    begun: list[str] = []

    def stop(event: Event) -> None:
        begun.extend([str(event.output)] if isinstance(event, RunStarted) else [])
        if len(begun) == 2 and isinstance(event, PhaseStarted) and event.phase == "finetune":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(net, name="cut", emit=stop)
    done = net.with_name("cut-0.3.safetensors").stat()
    resumed = run(net, name="cut", resume=True)
    assert len(scored) == 1
    assert net.with_name("cut-0.3.safetensors").stat().st_mtime_ns == done.st_mtime_ns
    assert bytes_of(net, "cut") == bytes_of(net, "out")
    assert [point.result.after for point in resumed.points if point.result] == [
        point.result.after for point in whole.points if point.result
    ]
    assert not list(net.parent.glob("*.run"))


def test_a_target_whose_gate_fails_is_not_written_and_the_others_are(net: Path, scored: list[int]) -> None:
    sizes = sum(p.numel() * 4 for p in ConvNet(widths=(8, 8), channels=1).parameters())
    with pytest.raises(GateError, match=r"^1 of 2 targets failed: 0\.3: .*more than --max-size") as failed:
        run(net, limits=Limits(max_size=sizes // 2))
    result = failed.value.result
    assert isinstance(result, SweepResult)
    assert [(gate.name, gate.passed) for gate in result.gates or ()] == [
        ("0.3 max-size", False),
        ("0.6 max-size", True),
    ]
    assert [point.output is None for point in result.points] == [True, False]
    assert set(bytes_of(net, "out")) == {"-0.6"}
    with pytest.raises(UsageError, match="another recipe, checkpoint or data"):
        sweep(
            net,
            [Member("0.3", recipe(0.3).model_copy(update={"seed": 1}), net.with_name("out-0.3.safetensors"))],
            quantity="ratio",
            output=net.with_name("out.safetensors"),
            resume=True,
        )
    accepted = run(net, resume=True)
    assert len(scored) == 1
    assert [point.message for point in accepted.points] == [None, None]
    assert set(bytes_of(net, "out")) == {"-0.3", "-0.6"}


def test_the_command_draws_the_trade_off(net: Path) -> None:
    net.with_suffix(".yaml").write_text(json.dumps({"model": MODEL, "data": DATA, "prune": PRUNE}))
    command = ["prune", str(net), "--macs", "0.8, 0.5,0.2", "--no-latency", "--json"]
    reports = [net.with_name(f"r.{ending}") for ending in ("png", "html", "md")]
    done = CliRunner().invoke(app, [*command, *(f"--report={report}" for report in reports)])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, json_schema(SweepResult))
    macs = [point["result"]["after"]["macs"] / document["before"]["macs"] for point in document["points"]]
    assert all(left <= asked for left, asked in zip(macs, (0.8, 0.5, 0.2), strict=True))
    assert document["points"][1]["output"] == str(net.with_name("net.pruned-0.5.safetensors"))
    assert reports[0].read_bytes().startswith(b"\x89PNG")
    assert ">right after removal<" in reports[1].read_text()
    assert "| 0.2 |" in reports[2].read_text()
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, UsageError)
    assert "net.pruned-0.8.safetensors exists already" in str(again.exception)


def test_targets_are_one_or_a_list_of_one_kind() -> None:
    assert aims(ratio=None, macs=None) == ([], [{}])
    assert aims(ratio="0.5") == (["0.5"], [{"prune__ratio": 0.5}])
    assert aims(size="10MB, 5MB")[1] == [{"prune__target": '{"size": "10MB"}'}, {"prune__target": '{"size": "5MB"}'}]
    for given in ({"ratio": "0.5,0.5"}, {"ratio": "0.3,1.5"}, {"macs": "0.5,"}, {"ratio": "0.5", "macs": "0.5"}):
        with pytest.raises(UsageError):
            aims(**given)
    with pytest.raises(UsageError, match="give one target"):
        aim(ratio="0.3,0.5")


def test_the_knee_is_where_the_curve_leaves_the_line() -> None:
    assert knee([1.0, 0.7, 0.4, 0.1], [0.98, 0.97, 0.95, 0.2]) == 2
    assert knee([1.0, 0.7, 0.4, 0.1], [0.9, 0.6, 0.3, 0.0]) is None  # a line
    assert knee([1.0, 0.5], [0.9, 0.8]) is None
    assert knee([1.0, 0.5, 0.2], [0.9, 0.9, 0.9]) is None
