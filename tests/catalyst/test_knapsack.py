"""A budget is met to within one step, with the least loss for what is saved; limits hold."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.knapsack import knapsack
from extcon_cli.catalyst.limits import LayerRule, Limits
from extcon_cli.catalyst.target import decide, decide_within, least_cost, removed_counts
from extcon_cli.channels import ChannelGroup, Cost, Slice
from extcon_cli.errors import GateError


def made_up(sizes: list[int]) -> Filters:
    groups = []
    for number, size in enumerate(sizes):
        part = Slice(f"layer{number}.weight", 0, np.arange(size)[:, None])
        groups.append(ChannelGroup(f"layer{number}", size, (part,), (part,)))
    return Filters.of(groups)


def chain(filters: Filters) -> Cost:
    """Each group is read by the next one: the cost is the sum of products of neighbouring widths."""
    sizes = [group.size for group in filters.groups]
    dims = len(sizes)
    factors = np.array([[i, i + 1] for i in range(dims)])
    return Cost(filters.groups, np.array([*sizes, 1.0]), np.eye(dims, dims + 1), np.ones(dims), factors)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(2, 30), min_size=1, max_size=5),
    share=st.floats(0.05, 0.98),
    floor=st.floats(0, 0.4),
    round_to=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 999),
)
def test_the_budget_is_met_to_within_one_step(
    sizes: list[int], share: float, floor: float, round_to: int, seed: int
) -> None:
    filters = made_up(sizes)
    cost, limits = chain(filters), Limits(floor=floor, round_to=round_to)
    scores = torch.rand(len(filters), generator=torch.Generator().manual_seed(seed))
    budget = share * cost.total(np.zeros(len(sizes)))
    counts = removed_counts(filters, mask := decide_within(scores, filters, cost, budget, limits))
    for group, count in zip(filters.groups, counts, strict=True):
        left = group.size - int(count)
        assert left == group.size or (left % round_to == 0 and left >= max(1, math.ceil(floor * group.size)))
    for span in filters.spans():  # of each group the smallest go
        gone, stays = scores[span][mask[span]], scores[span][~mask[span]]
        assert not len(gone) or gone.max() <= stays.min()
    if cost.total(counts) > budget:
        assert cost.total(counts) == least_cost(cost, limits)
        return
    for number, count in enumerate(counts):
        stops = limits.stops(filters.groups[number])
        if count:
            back = counts.copy()
            back[number] = stops[stops.tolist().index(int(count)) - 1]
            assert cost.total(back) > budget


def test_the_kept_score_is_close_to_the_best_there_is() -> None:
    filters = made_up([4, 5, 4])
    cost = chain(filters)
    ratios = []
    for seed in range(20):
        scores = torch.rand(len(filters), generator=torch.Generator().manual_seed(seed))
        losses = [np.sort(scores[span].double().numpy()) for span in filters.spans()]
        stops = [np.arange(group.size) for group in filters.groups]
        budget = 0.5 * cost.total(np.zeros(3))
        possible = [np.array(counts, float) for counts in itertools.product(*stops)]
        best = min(lost(losses, counts) for counts in possible if cost.total(counts) <= budget)
        ratios.append(lost(losses, knapsack(losses, stops, cost, budget)) / best)
    assert max(ratios) < 1.6
    assert np.mean(ratios) < 1.15


def lost(losses: list[np.ndarray], counts: np.ndarray) -> float:
    return float(sum(loss[: int(count)].sum() for loss, count in zip(losses, counts, strict=True)))


def test_what_saves_more_goes_first() -> None:
    filters = made_up([4, 4])
    cost = Cost(filters.groups, np.array([4.0, 4.0, 1.0]), np.eye(2, 3), np.array([1.0, 10.0]), np.array([[0], [1]]))
    mask = decide_within(torch.ones(8), filters, cost, 34.0, Limits(floor=0.0))
    assert mask.tolist() == [False] * 4 + [True] + [False] * 3


def test_savings_are_those_of_the_widths_by_then() -> None:
    filters = made_up([10, 10, 10])
    factors = np.array([[0, 1], [2, 3]])  # w0 * w1 + 5 * w2
    cost = Cost(filters.groups, np.array([10.0, 10, 10, 1]), np.eye(3, 4), np.array([1.0, 5.0]), factors)
    mask = decide_within(torch.ones(30), filters, cost, 40.0, Limits(floor=0.0))
    assert removed_counts(filters, mask).tolist() == [9, 0, 4]  # at first a channel of layer1 saves 10, by then 1


def test_rules_of_layers_hold() -> None:
    filters = made_up([10, 10, 10, 10])
    rules = (LayerRule("layer0", keep=True), LayerRule("layer1", ratio=0.3), LayerRule("layer2", floor=0.5, least=7))
    limits = Limits(floor=0.0, layers=rules)
    assert [limits.stops(group).tolist() for group in filters.groups] == [[0], [3], [0, 1, 2, 3], list(range(10))]
    counts = removed_counts(filters, decide(torch.arange(40.0), filters, 0.375, limits))
    assert counts.tolist() == [0, 3, 3, 9]


def test_the_first_rule_counts_and_keep_comes_before() -> None:
    group = made_up([8]).groups[0]
    assert Limits(floor=0.0, layers=[LayerRule("layer*", ratio=0.5), LayerRule("layer0")]).stops(group).tolist() == [4]
    assert Limits(keep=["layer0"], layers=[LayerRule("layer0", ratio=0.5)]).stops(group).tolist() == [0]


@pytest.mark.parametrize(("size", "stops"), [(20, [0, 4, 12]), (16, [0, 8]), (8, [0]), (5, [0])])
def test_widths_that_change_are_rounded(size: int, stops: list[int]) -> None:
    assert Limits(round_to=8).stops(made_up([size]).groups[0]).tolist() == stops


def test_ratios_of_layers_that_take_more_than_the_ratio_are_refused() -> None:
    filters = made_up([10, 10])
    with pytest.raises(GateError, match=r"prune\.decide\.layers take 8"):
        decide(torch.rand(20), filters, 0.2, Limits(layers=[LayerRule("layer0", ratio=0.8)]))


def test_scores_that_are_no_numbers_go_last() -> None:
    filters = made_up([4])
    scores = torch.tensor([torch.nan, 2.0, torch.inf, 1.0])
    assert decide(scores, filters, 0.5, Limits(floor=0.0)).tolist() == [False, True, False, True]
