"""`prune` for a budget: met to within one channel, measured on the result, or refused with what holds it back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import extcon_cli
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.limits import Limits
from extcon_cli.channels import Masks, channel_groups
from extcon_cli.checkpoint.architectures import build
from extcon_cli.errors import GateError, RecipeError
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.pruning import removal
from extcon_cli.pipelines.pruning.budget import Budget, keep_to
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import measure
from extcon_cli.report.results.prune import PruneResult
from extcon_cli.report.results.records import Size

MODEL: dict[str, Any] = {"arch": "zoo:digits_resnet", "kwargs": {"widths": [6, 8], "blocks": 1}}
SHAPE = (1, 8, 8)


def recipe(**section: Any) -> Recipe:
    """No training: what a budget needs is decided and measured all the same."""
    short: dict[str, Any] = {
        "score": {"method": "magnitude"},
        "bifurcate": {"method": "none", "steps": 1},
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


def run(checkpoint: Path, output: Path, wanted: Recipe) -> PruneResult:
    return prune(checkpoint, wanted, output=output, device="cpu")


@pytest.mark.parametrize(
    ("target", "field"), [({"macs": 0.5}, "macs"), ({"params": 0.4}, "params"), ({"size": "6kB"}, "bytes")]
)
def test_a_budget_is_met_on_the_result(fresh: Path, tmp_path: Path, target: dict[str, Any], field: str) -> None:
    result = run(fresh, tmp_path / "net.safetensors", recipe(target=target))
    found = result.removal.target
    assert found is not None
    assert result.removal.requested_ratio is None
    small = extcon_cli.load(tmp_path / "net.safetensors")
    assert (
        found.reached == getattr(measure(small, (torch.zeros(1, *SHAPE),)), field) == getattr(result.after.size, field)
    )
    whole = getattr(result.before.size, field)
    limit = 6000 if field == "bytes" else int(whole * next(iter(target.values())))
    assert found.budget == limit
    assert 0.8 * limit < found.reached <= limit  # a channel of so narrow a net is up to a sixth of it


def test_widths_are_rounded(fresh: Path, tmp_path: Path) -> None:
    result = run(
        fresh, tmp_path / "net.safetensors", recipe(target={"macs": 0.7}, decide={"round_to": 4, "floor": 0.0})
    )
    changed = [layer.after for layer in result.layers if layer.after != layer.before]
    assert changed
    assert all(width is not None and width % 4 == 0 for width in changed)


def test_a_layer_loses_the_share_that_it_should(fresh: Path, tmp_path: Path) -> None:
    layers = [{"match": "stages.0.0.conv1", "ratio": 0.5}, {"match": "stages.1*", "keep": True}]
    result = run(fresh, tmp_path / "net.safetensors", recipe(target={"params": 0.9}, decide={"layers": layers}))
    widths = {layer.name: (layer.before, layer.after) for layer in result.layers}
    assert widths["stages.0.0.conv1"] == (6, 3)
    assert widths["stages.1.0.conv1"] == (8, 8)


def test_a_budget_out_of_reach_says_what_holds_it_back(fresh: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.safetensors"
    with pytest.raises(GateError, match=r"at least \d+ MACs are left, 0\.\d+ of the original.*floor 0\.5") as refused:
        run(fresh, output, recipe(target={"macs": 0.1}, decide={"floor": 0.5}))
    assert "inspect" in str(refused.value)
    assert not output.exists()


def test_a_result_over_its_budget_is_not_written(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "measure", lambda *_: Size(params=10**6, macs=10**9, bytes=10**7))
    with pytest.raises(GateError, match=r"the target is missed: 1000000000 MACs are left"):
        run(fresh, tmp_path / "net.safetensors", recipe(target={"macs": 0.5}))
    assert not (tmp_path / "net.safetensors").exists()


def test_a_pattern_that_matches_no_group_is_refused(fresh: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"prune\.decide\.layers\.0\.match: 'stage1\*' matches no group"):
        run(fresh, tmp_path / "net.safetensors", recipe(decide={"layers": [{"match": "stage1*", "keep": True}]}))


def test_a_cost_that_is_not_fully_known_is_corrected_by_what_is_measured() -> None:
    module = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 2))
    channels = channel_groups(module, (torch.randn(2, 4),))
    filters = Filters.of(channels.groups)
    budget = Budget("macs", "0.5", original=120, limit=60)
    seen: list[int] = []

    def cut(masks: Masks) -> Size:  # 6 for each channel that is left, and 2 more that no cost knows
        left = 20 - sum(int(mask.sum()) for mask in masks.values())
        seen.append(8 * left)
        return Size(params=0, macs=8 * left, bytes=0)

    mask = keep_to(budget, budget.cost(module, channels, {}), torch.rand(20), filters, Limits(), cut)
    assert 40 < seen[-1] <= 60
    assert 8 * int((~mask).sum()) <= 60
    with pytest.raises(GateError, match="at least"):
        keep_to(replace(budget, limit=5), budget.cost(module, channels, {}), torch.rand(20), filters, Limits(), cut)
