"""`extcon prune` with several targets: one pruning each, by the same scores, and where the trade-off bends.

A target whose gate fails is not written; the others are. Only then the sweep fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.errors import ExtconError, GateError, Interrupted
from extcon_cli.events import Emit, Noted, ignore
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.pruning.knee import knee
from extcon_cli.pipelines.pruning.prune_run import PruneRun
from extcon_cli.pipelines.pruning.scoring import score
from extcon_cli.pipelines.pruning.sweep_state import SweepState
from extcon_cli.pipelines.running.gates import NO_LIMITS, Limits
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.prune import PruneResult, SweepPoint, SweepResult
from extcon_cli.report.results.records import Gate
from extcon_cli.report.side_by_side import cost, worth


@dataclass(frozen=True)
class Member:
    """One target of a sweep."""

    asked: str
    recipe: Recipe
    output: Path
    force: bool = False
    """Overwrite the output."""


def sweep(
    checkpoint: Path,
    members: Sequence[Member],
    *,
    quantity: str,
    output: Path,
    device: str | None = None,
    resume: bool = False,
    limits: Limits = NO_LIMITS,
    keep_run: bool = True,
    latency: bool = True,
    then: Callable[[PruneResult, Recipe], PruneResult] = lambda result, recipe: result,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> SweepResult:
    """Prune a checkpoint once for each target.

    Args:
        members: their recipes differ in the target alone.
        quantity: what the targets are of.
        output: what the outputs' names are made of; beside it, `OUTPUT.run/` holds the sweep.
        limits: each result is held to them by itself.
        then: acts on each result that was written, such as an export.
        device, resume, keep_run, latency, trust: as in `prune`.

    Raises: GateError, which carries the result, after the last target where one or more have failed. Interrupted
    (resumable) on Ctrl-C or SIGTERM.
    """
    began = time.monotonic()
    state = SweepState(Path(f"{output}.run"), checkpoint, members[0].recipe, resume=resume)
    if state.began_anew:
        text = f"{state.folder} held the state of a sweep that was interrupted: it begins anew (--resume goes on)"
        emit(Noted(text, warning=True))

    def scored(pruning: PruneRun) -> Tensor:
        kept = state.scores
        if kept is None:
            kept = score(pruning)
            state.keep_scores(kept)
        return kept

    points = []
    for member in members:
        done = state.done(member.asked, member.output) if resume else None
        if done is not None:
            emit(Noted(f"{quantity} {member.asked} is done: {member.output}"))
            points.append(SweepPoint(member.asked, str(member.output), done, None))
            continue
        try:
            result = prune(
                checkpoint,
                member.recipe,
                output=member.output,
                device=device,
                resume=resume,
                force=member.force,
                limits=limits,
                keep_run=keep_run,
                latency=latency,
                scorer=scored,
                trust=trust,
                emit=emit,
            )
        except GateError as error:
            emit(Noted(f"{quantity} {member.asked}: {error}", warning=True))
            points.append(_failed(member.asked, error))
            continue
        except ExtconError as error:
            if not isinstance(error, Interrupted) and not state.begun:  # nothing to go on from: leave no trace
                state.finish()
            raise
        result = then(result, member.recipe)
        state.keep(member.asked, result, member.output)
        points.append(SweepPoint(member.asked, str(member.output), replace(result, history=None), None))
    found = SweepResult(
        checkpoint=str(checkpoint),
        quantity=quantity,
        before=next((point.result.before for point in points if point.result is not None), None),
        points=tuple(points),
        knee=_knee(quantity, points),
        seconds=time.monotonic() - began,
        gates=tuple(gate for point in points for gate in _gates(point)) or None,
    )
    failed = [point for point in points if point.message is not None]
    if failed:
        said = "; ".join(f"{point.asked}: {point.message}" for point in failed)
        raise GateError(f"{len(failed)} of {len(points)} targets failed: {said}", gate="sweep", result=found)
    if not keep_run:
        state.finish()
    return found


def _failed(asked: str, error: GateError) -> SweepPoint:
    result = error.result if isinstance(error.result, PruneResult) else None
    return SweepPoint(asked, None, result and replace(result, history=None), str(error))


def _gates(point: SweepPoint) -> Sequence[Gate]:
    """The gates of a target, under its name."""
    if point.result is not None and point.result.gates:
        return [replace(gate, name=f"{point.asked} {gate.name}") for gate in point.result.gates]
    return [Gate(f"{point.asked} check", False, None, None, point.message)] if point.message is not None else []


def _knee(quantity: str, points: Sequence[SweepPoint]) -> str | None:
    """The target where the trade-off bends, the original among the points."""
    measured = [(point.asked, point.result) for point in points if point.result is not None]
    if not measured:
        return None
    before = measured[0][1].before
    if worth(before) is None:
        return None
    every = [before, *(result.after for _, result in measured)]
    at = knee([cost(quantity, stats) for stats in every], [worth(stats) or 0.0 for stats in every])
    return measured[at - 1][0] if at else None
