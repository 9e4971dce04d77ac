"""Which filters go: the ratio is met, floors and kept groups are respected, the smallest go first."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.limits import Limits
from extcon_cli.catalyst.target import decide
from extcon_cli.channels import ChannelGroup, Slice
from extcon_cli.errors import GateError


def made_up(sizes: list[int]) -> Filters:
    groups = []
    for number, size in enumerate(sizes):
        part = Slice(f"layer{number}.weight", 0, np.arange(size)[:, None])
        groups.append(ChannelGroup(f"layer{number}", size, (part,), (part,)))
    return Filters.of(groups)


@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    ratio=st.floats(0.05, 0.95),
    floor=st.floats(0, 0.3),
    seed=st.integers(0, 999),
)
def test_the_ratio_is_met_to_within_one_filter_and_floors_stay(
    sizes: list[int], ratio: float, floor: float, seed: int
) -> None:
    filters = made_up(sizes)
    scores = torch.rand(len(filters), generator=torch.Generator().manual_seed(seed))
    room = sum(size - max(1, math.ceil(floor * size)) for size in sizes)
    if round(ratio * len(filters)) > room:
        with pytest.raises(GateError, match="floor"):
            decide(scores, filters, ratio, Limits(floor=floor))
        return
    mask = decide(scores, filters, ratio, Limits(floor=floor))
    assert abs(int(mask.sum()) - ratio * len(filters)) <= 0.5
    for chosen, size in zip(filters.chosen(mask), sizes, strict=True):
        assert size - len(chosen) >= max(1, math.ceil(floor * size))


def test_the_smallest_go_first(  # over all groups alike
) -> None:
    filters = made_up([4, 4])
    scores = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6])
    assert decide(scores, filters, 0.5, Limits(floor=0.0)).tolist() == [
        True,
        False,
        True,
        False,
        True,
        False,
        True,
        False,
    ]


def test_kept_groups_are_not_touched() -> None:
    filters = made_up([6, 6])
    mask = decide(torch.zeros(12), filters, 0.25, Limits(keep=["layer0*"]))
    assert not mask[:6].any()
    assert mask[6:].sum() == 3
    with pytest.raises(GateError, match="kept groups"):
        decide(torch.zeros(12), filters, 0.9, Limits(keep=["*"]))
