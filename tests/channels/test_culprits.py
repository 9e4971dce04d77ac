"""Blame: what is left goes together, and no more is held back than has to be where the place tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from extcon_cli.channels import ChannelGroup, channel_groups, dry_run
from extcon_cli.channels.culprits import Failure, culprits
from extcon_cli.channels.removal.apply import removed_copy
from extcon_cli.channels.removal.rewrites import RemovalPlan

GROUPS = [ChannelGroup(f"{number}", 4, (), ()) for number in range(8)]


@dataclass
class Model:
    """Fails at a place where any of the groups that break it is removed; it names these suspects there."""

    breaks: dict[str, set[int]]
    names: dict[str, tuple[set[int], ...]] = field(default_factory=dict)
    attempts: int = 0

    def attempt(self, groups: Sequence[ChannelGroup]) -> list[Failure]:
        """Every place that fails."""
        self.attempts += 1
        removed = {GROUPS.index(group) for group in groups}
        failing = [place for place, guilty in self.breaks.items() if guilty & removed]
        return [
            Failure(place, place if place in self.names else None,
                    tuple(frozenset(id(GROUPS[n]) for n in tier) for tier in self.names.get(place, ())))
            for place in failing
        ]  # fmt: skip

    def blamed(self) -> dict[int, str]:
        found = culprits(GROUPS, self.attempt)
        return {GROUPS.index(group): found[id(group)] for group in GROUPS if id(group) in found}


def test_nothing_breaks() -> None:
    model = Model({})
    assert (model.blamed(), model.attempts) == ({}, 1)


def test_the_places_name_their_groups() -> None:
    """Three places, known from the first attempt; the second one is on all the others."""
    model = Model({"a": {1}, "b": {4}, "c": {7}}, {"a": ({1},), "b": ({4},), "c": ({7},)})
    assert (model.blamed(), model.attempts) == ({1: "a", 4: "b", 7: "c"}, 2)


def test_one_of_several_that_meet_is_found() -> None:
    model = Model({"a": {3}}, {"a": ({1, 2, 3},)})
    assert model.blamed() == {3: "a"}


def test_two_that_have_to_agree_stay_both() -> None:
    model = Model({"a": {1, 5}}, {"a": ({1}, {1, 5})})
    assert (model.blamed(), model.attempts) == ({1: "a", 5: "a"}, 4)


def test_the_nearest_is_let_off_where_it_was_another_of_the_module() -> None:
    assert Model({"a": {5}}, {"a": ({1}, {1, 5})}).blamed() == {5: "a"}


def test_without_a_place_the_suspects_are_halved() -> None:
    assert Model({"a": {2}, "b": {6}}).blamed() == {2: "a", 6: "b"}


def test_a_place_that_names_the_wrong_ones_costs_nobody() -> None:
    assert Model({"a": {2}}, {"a": ({0}, {0, 1})}).blamed() == {2: "a"}


SETS = st.sets(st.integers(0, 7), min_size=1, max_size=3)


@settings(max_examples=200)
@given(st.lists(st.tuples(SETS, st.none() | st.lists(SETS, max_size=2).map(tuple)), max_size=4))
def test_what_is_left_goes_together_whatever_the_places_say(
    places: list[tuple[set[int], tuple[set[int], ...] | None]],
) -> None:
    breaks = {f"{number}": guilty for number, (guilty, _) in enumerate(places)}
    model = Model(breaks, {f"{number}": told for number, (_, told) in enumerate(places) if told is not None})
    found = model.blamed()
    left = [group for number, group in enumerate(GROUPS) if number not in found]
    assert not left or not model.attempt(left)
    assert all(found.values())
    assert model.attempts < 120


class Block(nn.Module):
    """A residual block, some of which have their inner width in the code."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.up, self.down, self.columns = nn.Linear(6, 8), nn.Linear(8, 6), width

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).relu()
        out: Tensor = x + self.down(y.view(-1, self.columns) if self.columns else y)
        return out


def test_sizes_in_the_code_of_many_blocks_are_found_one_attempt_each(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = [], dry_run._attempt

    def counted(*args: object) -> object:
        seen.append(args)
        return original(*args)  # type: ignore[arg-type]

    def copied(module: nn.Module, plan: RemovalPlan) -> nn.Module:
        copies.append(module.get_parameter("0.up.weight").is_meta)
        return removed_copy(module, plan)

    copies: list[bool] = []
    monkeypatch.setattr(dry_run, "_attempt", counted)
    monkeypatch.setattr(dry_run, "removed_copy", copied)
    net = nn.Sequential(*(Block(8 if number % 5 == 0 else None) for number in range(20)))
    channels = channel_groups(net.eval(), (torch.randn(2, 6),))
    stays = {group.name for group in channels.groups if group.reason and group.name.endswith("up")}
    assert stays == {f"{number}.up" for number in range(0, 20, 5)}
    assert len(seen) == 5
    assert copies == [False, True, True, True, True, False]  # weights are copied where a forward pass may follow
