"""A budget of latency: decide by a table of layer times, measure the smaller model, correct the aim, decide again.

The table says which layers pay; the whole model, measured in turns with the original, says how far to go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.limits import Limits
from extcon_cli.catalyst.target import decide_within, least_cost, removed_counts
from extcon_cli.channels import Channels, Cost, Masks
from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.layers import averaged
from extcon_cli.errors import GateError
from extcon_cli.events import Emit, Noted, Progress, ignore, phase
from extcon_cli.latency.clock import take_turns
from extcon_cli.latency.cost import Layers
from extcon_cli.latency.runtimes import Setting, running
from extcon_cli.latency.table import Table
from extcon_cli.pipelines.running.measure import latency, setting
from extcon_cli.recipe.durations import seconds_of
from extcon_cli.recipe.schema import LatencySpec
from extcon_cli.report.results.prune import TargetFigures
from extcon_cli.report.results.records import LatencyFigures

ROUNDS = 6
"""Decisions at most."""
CLOSE = 0.05
"""Share of the budget within which the result ends."""
GOAL = 0.985
"""Share of the budget that a decision aims at."""
ENOUGH = 0.965
"""Share of the budget from which on a trial is near enough: another measurement of it is not the same."""
LONGER = 2.5
"""How many times as long as other comparisons those last that a budget rests on."""
AGAIN = 3
"""Measurements of a result before it counts as over its budget, each three times as long as the one before."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A decision, and what the model takes that it leaves: both as shares of the original."""

    predicted: float
    measured: float
    mask: Tensor  # (n,)


@dataclass(frozen=True)
class Timing:
    """A model's layers in the table of this device, and what the whole takes."""

    setting: Setting
    seconds: float
    """Of the model as it is."""
    cost: Cost
    """Shares of it."""
    multiple: int
    """Widths that suit the device are multiples of it."""


def timing(
    module: nn.Module,
    channels: Channels,
    example: Inputs,
    spec: LatencySpec,
    *,
    device: str = "cpu",
    emit: Emit = ignore,
) -> Timing:
    """Time a model and its layers, as far as the user's cache does not know them.

    Raises: TraceError (the runtime does not take the model).
    """
    where = setting(spec, spec.batch_size or 1, device)
    layers = Layers.of(channels, where.batch_size)
    done = 0

    def progress() -> None:
        nonlocal done
        done += 1
        emit(Progress("layers", done))

    with phase(emit, "layers", f"Timing layers in {where.runtime}", len(layers), "layer"):
        with running(module, example, where) as run:
            seconds = take_turns([run], seconds=LONGER * spec.seconds, clock=where.clock).of(0).median
        table = Table.of(where, until=time.monotonic() + spec.layer_seconds)
        cost, multiple = layers.cost(table, seconds, progress), layers.multiple(table)
        table.save()
    if table.estimated:
        emit(Noted(f"{table.estimated} times of layers are estimated: prune.latency.layer_seconds was over"))
    return Timing(where, seconds, cost, multiple)


def finer(multiple: int) -> list[int]:
    """The multiple that suits the device, and finer ones to try where it is too coarse for a budget: 16, 4, 1."""
    return [multiple, *(finer(multiple // 4) if multiple >= 4 else [1] if multiple > 1 else [])]


def candidates(limits: Limits, channels: Channels, multiples: Sequence[int]) -> list[Limits]:
    """The limits to decide within, one after the other, until one allows the budget.

    First what a norm takes the mean of stays whole: a narrow norm is several operators where it was one, which can take
    longer than its channels save.
    """
    found = [replace(limits, round_to=multiple) for multiple in multiples]
    names = [group.name for group in averaged(channels)]
    return [replace(found[0], keep=(*limits.keep, *names)), *found] if names else found


def within_latency(
    asked: float | str,  # a share of the original, or a time such as 4ms
    known: Timing,
    values: Tensor,  # (n,) what each filter is worth
    filters: Filters,
    limits: Sequence[Limits],  # the next one is tried where no decision within one keeps to the budget
    module: nn.Module,
    cut: Callable[[Masks], nn.Module],  # the smaller module when these have gone
    example: Inputs,
    *,
    seconds: float,  # of a comparison
    ties: Sequence[Tie] = (),
    emit: Emit = ignore,
) -> Tensor:
    """The filters that go for a budget of latency, as a mask (n,), with what they leave measured on a trial.

    Raises:
        GateError: the limits do not allow it; the message says what was reached and what holds it back.
    """
    budget = asked if isinstance(asked, float) else seconds_of(asked) / known.seconds
    trials = list[Trial]()
    with running(module, example, known.setting) as original:

        def measured(mask: Tensor) -> float:
            with running(cut(filters.masks(mask)), example, known.setting) as smaller:
                times = take_turns([original, smaller], seconds=LONGER * seconds, clock=known.setting.clock)
            return times.ratio(1, 0).median

        for one in limits:

            def decide(aim: float, one: Limits = one) -> tuple[float, Tensor]:
                mask = decide_within(values, filters, known.cost, aim, one, ties)
                return known.cost.total(removed_counts(filters, mask)), mask

            if one.round_to > 1:
                emit(Noted(f"widths that change become multiples of {one.round_to}"))
            with phase(emit, "budget", f"Measuring what is left in {known.setting.runtime}", ROUNDS, "decision"):
                for number, trial in enumerate(approach(decide, measured, budget)):
                    trials.append(trial)
                    emit(Progress("budget", number + 1, {"predicted": trial.predicted, "left": trial.measured}))
            best = chosen(trials, budget)
            if best is not None:
                return best.mask
    raise GateError(f"the target is missed: {_held_back(trials, budget, known, limits[-1])}")


def approach(
    decide: Callable[[float], tuple[float, Tensor]],  # within an aim: what is predicted, and the mask
    measured: Callable[[Tensor], float],
    budget: float,
) -> Iterator[Trial]:
    """Decide, measure, and correct the aim, until a result is within the budget and near it. All are shares."""
    trials, aim = list[Trial](), GOAL * budget
    for _ in range(ROUNDS):
        predicted, mask = decide(aim)
        if any(trial.predicted == predicted for trial in trials):
            break
        trials.append(Trial(predicted, measured(mask), mask))
        yield trials[-1]
        if ENOUGH * budget <= trials[-1].measured <= budget:
            break
        if predicted > aim and trials[-1].measured > budget:
            break  # all that the limits allow has gone
        aim = next_aim(trials, GOAL * budget)


def next_aim(trials: Sequence[Trial], goal: float) -> float:
    """The prediction at which the goal is to be expected: on a line between the trials nearest to it.

    Where all trials are on one side of it, the line goes through the nearest and the model as it is.
    """
    points = [(1.0, 1.0), *((trial.predicted, trial.measured) for trial in trials)]
    over = min((point for point in points if point[1] > goal), key=lambda point: point[1], default=(1.0, 1.0))
    under = max((point for point in points if point[1] <= goal), key=lambda point: point[1], default=None)
    if under is None:
        if over[1] >= 1:  # smaller, and no faster: go further at once
            return 0.7 * min(point[0] for point in points)
        under, over = over, (1.0, 1.0)
    if over[1] == under[1]:
        return over[0]
    return under[0] + (goal - under[1]) * (over[0] - under[0]) / (over[1] - under[1])


def chosen(trials: Sequence[Trial], budget: float) -> Trial | None:
    """The slowest result within the budget; else the fastest that is not further than 5 % over it."""
    within = [trial for trial in trials if trial.measured <= budget]
    near = [trial for trial in trials if trial.measured <= (1 + CLOSE) * budget]
    best = max(within, key=lambda trial: trial.measured, default=None)
    if near and (best is None or best.measured < (1 - CLOSE) * budget):
        return min(near, key=lambda trial: abs(trial.measured - budget))
    return best


def latency_figures(
    asked: float | str,
    modules: tuple[nn.Module, nn.Module],  # before and after
    example: Inputs,
    spec: LatencySpec,
    *,
    device: str = "cpu",
) -> TargetFigures:
    """The budget and what was reached, measured anew, for the result.

    Raises:
        GateError: the result is more than 5 % over it, in three measurements, each longer than the one before.
    """
    where, seconds = setting(spec, spec.batch_size or 1, device), LONGER * spec.seconds
    for _ in range(AGAIN):
        found = latency(modules, example, where, seconds)
        budget, reached = _reached(asked, found)
        if reached <= (1 + CLOSE) * budget:
            break
        seconds *= 3
    else:
        raise GateError(
            f"the target is missed: a batch of {where.batch_size} takes {1e3 * reached:.3g} ms in {found.runtime}, "
            f"{reached / found.before.median:.3f} of the original; {1e3 * budget:.3g} ms may be; nothing was written"
        )
    text = f"{asked:g}" if isinstance(asked, float) else asked
    return TargetFigures("latency", text, budget, reached)


def _reached(asked: float | str, found: LatencyFigures) -> tuple[float, float]:
    """Seconds that may be, and that are. A share is one of the original as it was measured in the same rounds."""
    if isinstance(asked, float):
        return asked * found.before.median, found.ratio.median * found.before.median
    return seconds_of(asked), found.after.median


def _held_back(trials: Sequence[Trial], budget: float, known: Timing, limits: Limits) -> str:
    """What was reached, and what forbids less."""
    best = min(trials, key=lambda trial: trial.measured)
    least, free = (least_cost(known.cost, which) for which in (limits, Limits(floor=0.0)))
    stays = known.cost.total(np.array([group.size for group in known.cost.groups], dtype=float))
    text = (
        f"{best.measured:.3f} of the latency is left, {1e3 * best.measured * known.seconds:.3g} ms in "
        f"{known.setting.runtime}; {budget:.3f} may be"
    )
    if free < least:
        text += (
            f"; the limits in prune.decide (floor {limits.floor:g}, keep, layers, round_to {limits.round_to}) leave "
            f"{least:.3f} by the table of layers, {free:.3f} is the least without them"
        )
    return f"{text}; {max(0.0, stays):.3f} lies in layers that cannot shrink (`extcon inspect` says why)"
