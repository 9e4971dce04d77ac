"""A budget of latency: the aim is corrected by what is measured, and what cannot be met says why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import extcon_cli
from extcon_cli.catalyst.limits import Limits
from extcon_cli.channels import channel_groups
from extcon_cli.checkpoint.architectures import build
from extcon_cli.errors import GateError, RecipeError
from extcon_cli.events import Event, Noted, PhaseStarted
from extcon_cli.latency import table as tables
from extcon_cli.latency.clock import Times
from extcon_cli.pipelines.plan import plan
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.pruning import latency_target
from extcon_cli.pipelines.pruning.latency_target import ROUNDS, Trial, approach, candidates, chosen, finer, next_aim
from extcon_cli.pipelines.running import measure as measuring
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import measure

MODEL: dict[str, Any] = {"arch": "zoo:digits_resnet", "kwargs": {"widths": [8, 16], "blocks": 1}}
SHAPE = (1, 8, 8)


@pytest.mark.parametrize("power", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("fixed", [0.0, 0.2])
def test_the_aim_is_corrected_until_the_budget_is_met(power: float, fixed: float) -> None:
    """The model takes another time than the table says, by a power and a part that no removal touches."""
    budget = 0.5

    def measured(mask: Tensor) -> float:
        return fixed + (1 - fixed) * float(mask) ** power

    trials = list(approach(lambda aim: (aim, torch.tensor(aim)), measured, budget))
    assert len(trials) <= ROUNDS
    best = chosen(trials, budget)
    assert best is not None
    assert 0.95 * budget <= best.measured <= budget


def test_the_next_aim_lies_on_the_line_between_the_nearest() -> None:
    over, under = Trial(0.6, 0.7, torch.zeros(1)), Trial(0.3, 0.4, torch.zeros(1))
    assert next_aim([over, under], 0.55) == pytest.approx(0.45)
    assert next_aim([over], 0.4) == pytest.approx(0.2)
    assert next_aim([Trial(0.5, 1.1, torch.zeros(1))], 0.5) == pytest.approx(0.35)


def test_the_slowest_within_the_budget_is_chosen_or_one_that_is_near() -> None:
    trials = [Trial(0.5, left, torch.zeros(1)) for left in (0.3, 0.48, 0.52, 0.7)]
    assert chosen(trials, 0.5) is trials[1]
    assert chosen([trials[0], trials[2]], 0.5) is trials[2]
    assert chosen(trials[:1], 0.5) is trials[0]
    assert chosen(trials[3:], 0.5) is None
    assert finer(16) == [16, 4, 1]
    assert finer(32) == [32, 8, 2, 1]
    assert finer(1) == [1]


def test_what_a_norm_averages_stays_whole_where_that_is_enough() -> None:
    body = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)
    channels = channel_groups(nn.Sequential(*body), (torch.randn(2, 4),))
    first, *others = candidates(Limits(keep=("x",)), channels, [16, 4])
    assert first.keep == ("x", "0")
    assert [one.round_to for one in (first, *others)] == [16, 16, 4]
    assert all(one.keep == ("x",) for one in others)
    assert len(candidates(Limits(), channel_groups(nn.Sequential(*body[2:]), (torch.randn(2, 8),)), [2])) == 1


def recipe(**section: Any) -> Recipe:
    short: dict[str, Any] = {
        "score": {"method": "magnitude"},
        "compensate": {"enabled": False},
        "finetune": {"steps": 1},
    }
    data = {"dataset": "digits", "batch_size": 50}
    return from_dict({"model": {**MODEL, "input_shape": SHAPE}, "data": data, "prune": {**short, **section}})


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("fresh") / "net.pt"
    torch.save(build(MODEL["arch"], MODEL["kwargs"]).state_dict(), path)
    return path


@pytest.fixture
def by_macs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which a model takes as many microseconds as it has MACs, and ten thousand more; no layer says so."""

    @contextmanager
    def running(module: nn.Module, example: Any, setting: Any) -> Iterator[nn.Module]:
        yield module

    def take_turns(modules: Sequence[nn.Module], **_: Any) -> Times:
        return Times(np.array([[1e-6 * (10_000 + measure(m, (torch.zeros(1, *SHAPE),)).macs)] for m in modules]))

    for module in (latency_target, measuring):
        monkeypatch.setattr(module, "running", running)
        monkeypatch.setattr(module, "take_turns", take_turns)
    monkeypatch.setenv(tables.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "_measured", lambda shapes, setting: [1e-6 * shape.macs for shape in shapes])


def test_a_budget_is_met_on_the_result_and_planned(fresh: Path, tmp_path: Path, by_macs: None) -> None:
    events: list[Event] = []
    wanted = recipe(target={"latency": 0.6})
    result = prune(fresh, wanted, output=tmp_path / "net.safetensors", device="cpu", emit=events.append)
    found = result.removal.target
    assert found is not None
    assert found.quantity == "latency"
    small = extcon_cli.load(tmp_path / "net.safetensors")
    assert found.reached == pytest.approx(1e-6 * (10_000 + measure(small, (torch.zeros(1, *SHAPE),)).macs))
    assert 0.95 * found.budget <= found.reached <= found.budget
    assert result.latency is not None
    assert result.latency[0].ratio.median == pytest.approx(0.6 * found.reached / found.budget)
    phases = [event for event in events if isinstance(event, PhaseStarted)]
    assert {"layers", "budget", "latency"} <= {event.phase for event in phases}
    assert all(event.total for event in phases if event.phase in ("layers", "budget", "latency"))
    planned = plan(fresh, wanted, output=tmp_path / "p.json", samples=0, device="cpu")
    assert planned.latency is not None
    assert planned.latency[0].ratio.median == pytest.approx(result.latency[0].ratio.median, rel=0.1)
    assert plan(fresh, wanted, output=tmp_path / "p.json", samples=0, device="cpu", latency=False).latency is None


def test_a_budget_as_a_time_and_widths_that_suit_the_device(fresh: Path, tmp_path: Path, by_macs: None) -> None:
    whole = measure(build(MODEL["arch"], MODEL["kwargs"]), (torch.zeros(1, *SHAPE),)).macs
    limit = f"{(10_000 + whole) * 0.7 / 1000:.1f}ms"
    events: list[Event] = []
    asked = recipe(target={"latency": limit}, decide={"round_to": 2})
    result = prune(fresh, asked, output=tmp_path / "net.safetensors", device="cpu", emit=events.append)
    assert result.removal.target is not None
    assert result.removal.target.asked == limit
    assert Noted("widths that change become multiples of 2") in events
    assert all(layer.after == layer.before or layer.after % 2 == 0 for layer in result.layers if layer.after)


def test_a_budget_out_of_reach_says_what_holds_it_back(fresh: Path, tmp_path: Path, by_macs: None) -> None:
    said = r"0\.\d+ of the latency is left, .* ms in torch; 0\.100 may be; the limits in prune\.decide \(floor 0\.5.*\d"
    with pytest.raises(GateError, match=said) as refused:
        prune(
            fresh, recipe(target={"latency": 0.1}, decide={"floor": 0.5}),
            output=tmp_path / "net.safetensors", device="cpu",
        )  # fmt: skip
    assert "inspect" in str(refused.value)
    assert not (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize("given", [2, 1.0, "fast", "0ms", "4 minutes"])
def test_a_budget_that_is_none_is_refused(given: object) -> None:
    with pytest.raises(RecipeError, match="4ms"):
        recipe(target={"latency": given})
