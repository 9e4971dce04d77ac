"""Groups that keep the same share: how many go is one number, which ones go is each group's own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters, by_group
from extcon_cli.catalyst.limits import LayerRule, Limits
from extcon_cli.catalyst.target import decide, decide_within, removed_counts
from extcon_cli.channels import Channels, channel_groups, params_cost
from extcon_cli.errors import GateError


def net() -> nn.Module:
    """Three hidden layers of 8, 8 and 4 neurons."""
    layers = [layer for a, b in pairwise((3, 8, 8, 4, 2)) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@pytest.fixture(scope="module")
def channels() -> Channels:
    return channel_groups(net(), (torch.randn(2, 3),))


@pytest.fixture(scope="module")
def filters(channels: Channels) -> Filters:
    return Filters.of(channels.groups)


def tie(filters: Filters, *numbers: int, parts: int = 8, allowed: tuple[int, ...] = tuple(range(1, 8))) -> Tie:
    return Tie(tuple(filters.groups[number] for number in numbers), parts, allowed)


def gone(filters: Filters, mask: Tensor) -> list[int]:
    return [int(part.sum()) for part in by_group(filters, mask).values()]


def test_tied_groups_lose_as_many_and_the_smallest_of_each(filters: Filters) -> None:
    scores = torch.cat([torch.arange(8.0), 100 - torch.arange(8.0), torch.full((4,), 1e3)])
    ties = [tie(filters, 0, 1), tie(filters, 2, parts=4, allowed=(1, 2, 3))]
    mask = decide(scores, filters, 0.2, ties=ties)
    assert gone(filters, mask) == [2, 2, 0]
    assert mask.nonzero().flatten().tolist() == [0, 1, 14, 15]


def test_groups_of_other_sizes_lose_the_same_share(filters: Filters) -> None:
    everything = tie(filters, 0, 1, 2, parts=4, allowed=(1, 2, 3))
    assert gone(filters, decide(torch.rand(20), filters, 0.5, ties=[everything])) == [4, 4, 2]


def test_the_cheaper_tie_goes_first(filters: Filters) -> None:
    scores = torch.cat([torch.full((16,), 2.0), torch.full((4,), 1.0)])
    ties = [tie(filters, 0, 1), tie(filters, 2, parts=4, allowed=(1, 2, 3))]
    assert gone(filters, decide(scores, filters, 0.15, ties=ties)) == [0, 0, 3]
    assert gone(filters, decide(scores, filters, 0.25, ties=ties)) == [1, 1, 3]


def test_only_allowed_numbers_go_as_near_as_they_come(filters: Filters) -> None:
    ties = [tie(filters, 0, 1, allowed=(4,))]
    assert gone(filters, decide(torch.rand(20), filters, 0.3, ties=ties)) == [4, 4, 0]
    assert gone(filters, decide(torch.rand(20), filters, 0.45, ties=ties)) == [4, 4, 0]


def test_limits_hold_for_the_tie(filters: Filters) -> None:
    ties = [tie(filters, 0, 1), tie(filters, 2, parts=4, allowed=(1, 2, 3))]
    assert gone(filters, decide(torch.rand(20), filters, 0.5, Limits(floor=0.5), ties)) == [4, 4, 2]
    kept = decide(torch.rand(20), filters, 0.15, Limits(keep=[filters.groups[0].name]), ties)
    assert gone(filters, kept) == [0, 0, 3], "what is tied to a kept group stays too"
    rounded = decide(torch.rand(20), filters, 0.3, Limits(round_to=4), ties)
    assert gone(filters, rounded) == [4, 4, 0]


def test_a_budget_is_kept(channels: Channels, filters: Filters) -> None:
    cost = params_cost(net(), channels)
    ties = [tie(filters, 0, 1), tie(filters, 2, parts=4, allowed=(1, 2, 3))]
    mask = (
        decide_within(torch.rand(20), filters, cost, 0.5 * cost.total(cost.sizes[:0].repeat(0) * 0), ties=ties)
        if 0
        else decide_within(torch.rand(20), filters, cost, 70.0, ties=ties)
    )
    counts = removed_counts(filters, mask)
    assert counts[0] == counts[1] > 0
    assert cost.total(counts) <= 70 < cost.total(np.zeros(3))


@pytest.mark.parametrize(
    ("ratio", "limits", "allowed", "why"),
    [
        (0.9, Limits(floor=0.5), tuple(range(1, 8)), "leave"),
        (0.05, Limits(), (4,), "each step takes more"),
        (0.3, Limits(layers=[LayerRule("0", ratio=0.25), LayerRule("2", ratio=0.5)]), (2, 4), "together"),
    ],
)
def test_a_target_out_of_reach_is_refused(
    filters: Filters, ratio: float, limits: Limits, allowed: tuple[int, ...], why: str
) -> None:
    with pytest.raises(GateError, match=f"the target is missed.*{why}"):
        decide(torch.rand(20), filters, ratio, limits, [tie(filters, 0, 1, allowed=allowed)])
