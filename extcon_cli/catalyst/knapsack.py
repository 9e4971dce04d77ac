"""The least loss for a budget: what loses the least for each unit of cost saved goes first.

What a channel saves depends on the widths around it, so savings are computed anew as widths change. Knows no scores
in particular: any figure of what the loss of a channel does will do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extcon_cli.catalyst.limits import Stops
from extcon_cli.channels import Cost

Numbers = NDArray[np.float64]


def knapsack(
    losses: Sequence[Numbers],  # of each group (channels,), rising
    stops: Sequence[Stops],  # of each group
    cost: Cost,
    budget: float,
) -> Numbers:
    """How many channels of each group go, the cheapest ones first: (groups,).

    Where the stops allow it the cost is within the budget, and putting back the last step of any group would exceed
    it: the budget is met to within one step. Otherwise every group is at its last stop.
    """
    walk = _Walk(losses, stops, cost)
    while walk.total > budget and np.isfinite(walk.prices).any():
        walk.take(int(walk.prices.argmin()))
    while (group := walk.dearest_within(budget)) is not None:  # the last step may have saved more than was missing
        walk.put_back(group)
    return walk.removed


class _Walk:
    """Where a decision stands, and what each next step would cost: loss for each unit of cost saved."""

    def __init__(self, losses: Sequence[Numbers], stops: Sequence[Stops], cost: Cost) -> None:
        self.losses, self.stops, self.cost = losses, stops, cost
        self.at = np.zeros(len(stops), dtype=np.int64)  # the stop of each group
        self.removed = np.array([stop[0] for stop in stops], dtype=float)
        self.total = cost.total(self.removed)
        touches = np.zeros((len(stops), len(cost.coefficients)), bool)
        for group, terms in enumerate(cost.touched):
            touches[group, terms] = True
        self.neighbours = [np.flatnonzero((touches & touches[group]).any(1)) for group in range(len(stops))]
        self.prices = np.array([self._price(group) for group in range(len(stops))])

    def take(self, group: int) -> None:
        """Go to the next stop of a group."""
        self._move(group, 1)

    def put_back(self, group: int) -> None:
        """Go back to the stop before."""
        self._move(group, -1)

    def dearest_within(self, budget: float) -> int | None:
        """The group whose last step lost the most among those that the budget has room for. None: it has for none."""
        best, found = -np.inf, None
        for group, at in enumerate(self.at.tolist()):
            if at and self.total - self._saving(group, -1) <= budget and (loss := self._loss(group, at - 1)) > best:
                best, found = loss, group
        return found

    def _move(self, group: int, by: int) -> None:
        self.at[group] += by
        self.removed[group] = self.stops[group][self.at[group]]
        self.total = self.cost.total(self.removed)
        for other in self.neighbours[group].tolist():
            self.prices[other] = self._price(other)

    def _price(self, group: int) -> float:
        """Loss for each unit of cost that the next step saves. Infinite: there is no step, or it saves nothing."""
        at = int(self.at[group])
        if at + 1 >= len(self.stops[group]) or (saving := self._saving(group, 1)) <= 0:
            return float("inf")
        return self._loss(group, at) / saving

    def _loss(self, group: int, at: int) -> float:
        """Of the step from this stop to the next."""
        stops = self.stops[group]
        return float(self.losses[group][stops[at] : stops[at + 1]].sum())

    def _saving(self, group: int, by: int) -> float:
        stops, at = self.stops[group], self.at[group]
        return self.cost.saving(self.removed, group, float(stops[at + by] - stops[at]))
