"""Which filters go: the smallest normalised score first until a ratio is met, or the least loss for a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from extcon_cli.catalyst.alike import Tie, alike
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.knapsack import Numbers, knapsack
from extcon_cli.catalyst.limits import Limits
from extcon_cli.channels import Cost
from extcon_cli.errors import GateError


def decide(
    scores: Tensor,  # (n,) what each filter is worth
    filters: Filters,
    ratio: float,  # share of the filters that goes, 0 < ratio < 1
    limits: Limits = Limits(),  # noqa: B008
    ties: Sequence[Tie] = (),  # groups that keep the same share; none: each may have a width of its own
) -> Tensor:
    """The filters that go, as a mask (n,): the nearest whole number to ratio * n, or the nearest that ties allow.

    Raises:
        GateError: the limits leave too few filters to choose from, or take more by themselves.
    """
    wanted, cost = round(ratio * len(filters)), Cost.counting(filters.groups)
    stops = [limits.stops(group) for group in filters.groups]
    least, most = (sum(int(stop[end]) for stop in stops) for end in (0, -1))
    if wanted > most:
        raise GateError(
            f"the target is missed: {wanted} of {len(filters)} filters should go, but prune.decide.floor "
            f"{limits.floor:g} and the kept groups leave {most} to choose from; lower the floor or the ratio"
        )
    if wanted < least:
        raise GateError(
            f"the target is missed: {wanted} of {len(filters)} filters should go, but the ratios in "
            f"prune.decide.layers take {least}; lower them or raise the ratio"
        )
    mask = _cheapest(scores, filters, cost, len(filters) - wanted, limits, ties, nearest=True)
    if ties and not mask.any():
        raise GateError(
            f"the target is missed: {wanted} of {len(filters)} filters should go, and where all layers stay alike each "
            "step takes more; raise the ratio, or set prune.widths to free"
        )
    return mask


def decide_within(
    scores: Tensor,  # (n,) what each filter is worth
    filters: Filters,
    cost: Cost,  # of the same groups
    budget: float,
    limits: Limits = Limits(),  # noqa: B008
    ties: Sequence[Tie] = (),
) -> Tensor:
    """The filters that go, as a mask (n,): the least loss for which the cost is within the budget.

    Where the limits do not allow it, all that they allow.
    """
    return _cheapest(scores, filters, cost, budget, limits, ties)


def least_cost(cost: Cost, limits: Limits) -> float:
    """What a module costs when all has gone that the limits allow."""
    return cost.total(np.array([limits.stops(group)[-1] for group in cost.groups], dtype=float))


def removed_counts(filters: Filters, mask: Tensor) -> Numbers:
    """How many filters of each group a mask (n,) picks: (groups,)."""
    return np.array([int(mask[span].sum()) for span in filters.spans()], dtype=float)


def _cheapest(
    scores: Tensor,
    filters: Filters,
    cost: Cost,
    budget: float,
    limits: Limits,
    ties: Sequence[Tie],
    *,
    nearest: bool = False,
) -> Tensor:
    """The mask (n,) of what a knapsack takes, the smallest scores of each group first."""
    orders = [scores[span].argsort(stable=True) for span in filters.spans()]
    losses = [
        np.nan_to_num(scores[span][order].double().cpu().numpy(), nan=1e300, posinf=1e300)
        for span, order in zip(filters.spans(), orders, strict=True)
    ]
    mask = torch.zeros(len(filters), dtype=torch.bool)
    if ties:
        counts = alike(losses, ties, cost, budget, limits, nearest=nearest)
    else:
        counts = knapsack(losses, [limits.stops(group) for group in filters.groups], cost, budget)
    for span, order, count in zip(filters.spans(), orders, counts.astype(int).tolist(), strict=True):
        mask[span][order[:count].cpu()] = True
    return mask
