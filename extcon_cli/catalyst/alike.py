"""How many filters go where groups keep the same share: a configuration has one number for the width of all layers.

The knapsack of `knapsack.py` for ties of groups: whole parts of all groups of a tie go together, the cheapest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from extcon_cli.catalyst.knapsack import Numbers
from extcon_cli.catalyst.limits import Limits
from extcon_cli.channels import ChannelGroup, Cost
from extcon_cli.errors import GateError


@dataclass(frozen=True)
class Tie:
    """Groups that lose the same share of their channels."""

    groups: tuple[ChannelGroup, ...]
    parts: int
    """Equal parts of which each group consists; whole parts go."""
    allowed: tuple[int, ...]
    """How many parts may go, rising."""


def alike(
    losses: Sequence[Numbers],  # of each group of the cost (channels,), rising
    ties: Sequence[Tie],  # of these groups; a group that is in none stays
    cost: Cost,
    budget: float,
    limits: Limits = Limits(),  # noqa: B008
    *,
    nearest: bool = False,
) -> Numbers:
    """How many channels of each group go: (groups,).

    The cost comes within the budget, or with `nearest` as near to it as whole parts come, on either side. Where the
    limits do not allow it, all goes that they allow.

    Raises:
        GateError: the limits leave nothing that groups which are tied can lose together.
    """
    walks = [_Walk.of(tie, losses, cost, limits) for tie in ties]
    removed = np.sum([walk.counts for walk in walks], axis=0)
    total = cost.total(removed)
    going = [walk for walk in walks if walk.more]
    while going and total > budget:
        prices = []
        for walk in going:
            loss, counts = walk.next()
            saved = total - cost.total(removed + counts)
            prices.append((loss / saved if saved > 0 else np.inf, saved))
        best = int(np.argmin([price for price, _ in prices]))
        walk, saved = going[best], prices[best][1]
        if nearest and abs(total - saved - budget) >= abs(total - budget):
            going.remove(walk)  # it steps too far: another one may come nearer
            continue
        removed, total = removed + walk.next()[1], total - saved
        walk.at += 1
        going = [walk for walk in going if walk.more]
    return removed


@dataclass
class _Walk:
    """How far a tie has gone."""

    tie: Tie
    steps: list[int]
    """Parts that may be gone, the first of them in any case."""
    losses: Numbers  # (parts + 1,) of all that is gone
    each: Numbers  # (groups,) channels of a part
    at: int = 0

    @classmethod
    def of(cls, tie: Tie, losses: Sequence[Numbers], cost: Cost, limits: Limits) -> _Walk:
        places = {id(group): place for place, group in enumerate(cost.groups)}
        each, summed = np.zeros(len(cost.groups)), np.zeros(tie.parts)
        for group in tie.groups:
            place = places[id(group)]
            each[place] = group.size // tie.parts
            summed += losses[place].reshape(tie.parts, -1).sum(1)
        stops = [(set(limits.stops(group).tolist()), group.size // tie.parts) for group in tie.groups]
        steps = [gone for gone in (0, *tie.allowed) if all(gone * part in stop for stop, part in stops)]
        if not steps:
            names = ", ".join(group.name for group in tie.groups[:2])
            raise GateError(
                f"the target is missed: layers that stay alike ({names} ...) can lose no number of channels together "
                "that prune.decide (floor, layers, round_to) allows; change that, or set prune.widths to free"
            )
        return cls(tie, steps, np.concatenate([[0.0], summed.cumsum()]), each)

    @property
    def more(self) -> bool:
        """Can more go?"""
        return self.at + 1 < len(self.steps)

    @property
    def counts(self) -> Numbers:
        """Channels that are gone: (groups,)."""
        return self.each * self.steps[self.at]

    def next(self) -> tuple[float, Numbers]:
        """What the next step loses, and the channels that it takes: (groups,)."""
        now, then = self.steps[self.at], self.steps[self.at + 1]
        return float(self.losses[then] - self.losses[now]), self.each * (then - now)
