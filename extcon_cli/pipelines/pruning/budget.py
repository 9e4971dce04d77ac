"""A budget of the smaller model: what it is in figures, the decision that keeps to it, and whether the result does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.limits import Limits
from extcon_cli.catalyst.target import decide_within, least_cost, removed_counts
from extcon_cli.channels import (
    Channels,
    Cost,
    Masks,
    bytes_cost,
    macs_cost,
    params_cost,
    plan_removal,
    remove,
    zero_channels,
)
from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.preserving import duplicate
from extcon_cli.checkpoint.precision import Precision
from extcon_cli.errors import GateError
from extcon_cli.pipelines.pruning.latency_target import latency_figures
from extcon_cli.recipe.schema import PruneSpec, TargetSpec
from extcon_cli.recipe.sizes import bytes_of
from extcon_cli.report.results.prune import TargetFigures
from extcon_cli.report.results.records import Size

NAMES = {"macs": "MACs", "params": "parameters", "size": "bytes"}
ATTEMPTS = 4
"""Decisions after which the measured figure has to be what was aimed at: the first one is, but for odd modules."""


@dataclass(frozen=True)
class Budget:
    """How much of one quantity the smaller model may have."""

    quantity: str  # macs, params, size
    asked: str
    original: int
    limit: float

    @classmethod
    def of(cls, target: TargetSpec, original: Size) -> Budget:
        """The recipe's target for a model of this size."""
        ((quantity, asked),) = target.model_dump(exclude_none=True).items()
        before = measured(quantity, original)
        limit = bytes_of(asked) if isinstance(asked, str) else asked * before
        return cls(quantity, f"{asked:g}" if isinstance(asked, float) else asked, before, limit)

    def cost(self, module: nn.Module, channels: Channels, precision: Precision) -> Cost:
        """The quantity as a function of how many channels go."""
        if self.quantity == "macs":
            counted = [macs_cost(channels, recurrent=seen) for seen in (False, True)]
            cost = min(counted, key=lambda one: abs(one.total(np.zeros(len(one.groups))) - self.original))
        elif self.quantity == "params":
            cost = params_cost(module, channels)
        else:
            cost = bytes_cost(module, channels, precision)
        return cost.anchored(self.original)

    def figures(self, size: Size) -> TargetFigures:
        """The budget and what was reached, for the result. GateError where the result exceeds it."""
        reached = measured(self.quantity, size)
        if reached > self.limit:
            raise GateError(f"the target is missed: {self.compared(reached)}; nothing was written")
        return TargetFigures(self.quantity, self.asked, int(self.limit), reached)

    def compared(self, reached: float) -> str:
        """What was reached beside what may be left, in words."""
        share = reached / max(1, self.original)
        return f"{reached:.0f} {NAMES[self.quantity]} are left, {share:.4f} of the original; {self.limit:.0f} may be"


def target_figures(
    spec: PruneSpec,
    modules: tuple[nn.Module, nn.Module],  # before and after
    sizes: tuple[Size, Size],
    example: Inputs,
    *,
    device: str = "cpu",
) -> TargetFigures | None:
    """The budget that the recipe asks for, and what was reached. GateError where the result exceeds it."""
    if spec.target is None:
        return None
    if spec.target.latency is not None:
        return latency_figures(spec.target.latency, modules, example, spec.latency, device=device)
    return Budget.of(spec.target, sizes[0]).figures(sizes[1])


def measured(quantity: str, size: Size) -> int:
    """The figure that a budget is about."""
    return {"macs": size.macs, "params": size.params, "size": size.bytes}[quantity]


def keep_to(
    budget: Budget,
    cost: Cost,
    values: Tensor,  # (n,) what each filter is worth
    filters: Filters,
    limits: Limits,
    cut: Callable[[Masks], Size],  # what is left, measured, when these have gone
    ties: Sequence[Tie] = (),  # groups that keep the same share
) -> Tensor:
    """The filters that go for the budget, as a mask (n,), with what they leave measured on a trial.

    Raises:
        GateError: the limits do not allow it; the message says what was reached and what holds it back.
    """
    aim, best, least = budget.limit, None, -1
    for _ in range(ATTEMPTS):
        mask = decide_within(values, filters, cost, aim, limits, ties)
        expected = cost.total(removed_counts(filters, mask))
        if expected > aim:
            break
        reached = measured(budget.quantity, cut(filters.masks(mask)))
        if least < reached <= budget.limit:
            best, least = mask, reached
        if reached == round(expected):
            break
        aim = budget.limit - (reached - expected)
    if best is None:
        raise GateError(f"the target is missed: {_held_back(budget, cost, limits)}")
    return best


def without(module: nn.Module, channels: Channels, masks: Masks) -> nn.Module:
    """A copy as the removal of these channels will leave it; its outputs are not compared."""
    trial = duplicate(module)
    for group, mask in masks.items():
        zero_channels(trial, group, np.flatnonzero(mask))
    remove(trial, plan_removal(trial, channels))
    return trial


def _held_back(budget: Budget, cost: Cost, limits: Limits) -> str:
    """The least that can be left, and what forbids less."""
    least, free = (least_cost(cost, which) for which in (limits, Limits(floor=0.0)))
    text = f"at least {budget.compared(least)}"
    if free < least:
        text += (
            f"; the limits in prune.decide (floor {limits.floor:g}, keep, layers, round_to) hold it back, "
            f"{free / budget.original:.4f} is the least without them"
        )
    return f"{text}; {cost.constant / budget.original:.4f} lie in layers that cannot shrink (`extcon inspect` says why)"
