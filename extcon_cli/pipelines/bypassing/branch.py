"""One branch of `bypass`: a strategy from where its cycle starts to a model of the original architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from extcon_cli.bypass.strategies import STRATEGIES, Strategy
from extcon_cli.bypass.strategies.base import State
from extcon_cli.bypass.trace import Trace
from extcon_cli.checkpoint.precision import round_to
from extcon_cli.errors import DivergedError, GateError, TraceError, UsageError
from extcon_cli.events import Noted
from extcon_cli.pipelines.bypassing.phased import phased_training
from extcon_cli.pipelines.bypassing.stalled import Stalled, Weights
from extcon_cli.pipelines.running.phase import run_phase
from extcon_cli.report.results.bypass import Branch, BranchCertificate, BranchRecord
from extcon_cli.report.results.records import PhaseRecord
from extcon_cli.report.serialise import from_json
from extcon_cli.training.loop import Step
from extcon_cli.training.run_directory import RunDirectory

ATTEMPTS = 4
"""How often a branch whose loss is not finite goes back to its last finite state, each time at half the rate."""


@dataclass(frozen=True)
class BranchOutcome:
    """Where a branch has ended."""

    record: BranchRecord
    weights: Weights | None
    """Of the original architecture. None: it gave no model."""
    seconds: float | None = None


@dataclass(frozen=True)
class BranchState:
    """A branch between two steps: what `run_phase` keeps of its training, and what goes beside it."""

    training: State
    strategy: State
    trace: State

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> BranchState:
        """From what a run directory has kept."""
        return cls(payload, payload["more"]["strategy"], payload["more"]["trace"])

    @property
    def done(self) -> int:
        """Steps that are over."""
        return int(self.training["trainer"]["done"])


@dataclass
class _Attempts:
    """The attempts of a branch: the one that is under way, and where a next one would begin."""

    number: int = 0
    begin: BranchState | None = None
    """None: at the first step."""
    finite: BranchState | None = None
    """The last state in which all parameters were finite."""

    def to_payload(self) -> dict[str, object]:
        kept = self.finite and {"strategy": self.finite.strategy, "trace": self.finite.trace}
        return {"attempt": self.number, "finite": self.finite and {**self.finite.training, "more": kept}}


def follow(
    stalled: Stalled,
    branch: Branch,
    start: Weights,
    *,
    directory: RunDirectory | None = None,
    resume_state: Mapping[str, Any] | None = None,
    rest: Callable[[], Mapping[str, object]] = dict,
) -> BranchOutcome:
    """Embed, opt_1, opt_2, proj, train_3.

    Where the loss is not finite it goes back to the last finite state, and on at half the learning rate.

    Args:
        start: theta*, or the best weights of the cycle before.
        directory: where the state is kept. None: nowhere.
        resume_state: what was kept of this branch; goes on from there.
        rest: what is kept of the run beside this branch.

    A branch that the model does not allow, or that is lost, leaves a note and no weights.
    """
    context = stalled.context(start, branch.cycle)
    attempts = _Attempts()
    if resume_state is not None:
        more = resume_state["more"]
        finite = more["finite"] and BranchState.of(more["finite"])
        attempts = _Attempts(more["attempt"], BranchState.of(resume_state), finite)
    lost: BranchCertificate | None = None
    while attempts.number < ATTEMPTS:
        try:
            strategy = STRATEGIES[branch.strategy](context)  # embed
        except (GateError, TraceError, UsageError) as error:
            stalled.emit(Noted(f"{branch}: {error}", warning=True))
            break
        try:
            return _walk(stalled, branch, strategy, attempts, directory, rest)
        except DivergedError as error:
            attempts.number += 1
            attempts.begin = copy.deepcopy(attempts.finite)
            back = f"back to step {attempts.begin.done}" if attempts.begin is not None else "back to its start"
            stalled.emit(Noted(f"{branch}: {error}; {back}, at half the rate", warning=True))
            lost = BranchCertificate(contracted=False, reason=str(error))
        except (GateError, TraceError, UsageError) as error:
            stalled.emit(Noted(f"{branch}: {error}", warning=True))
            lost = BranchCertificate(contracted=False, reason=str(error))
            break
    return BranchOutcome(BranchRecord(branch, None, PhaseRecord(str(branch), (), ()), lost), None)


def _walk(
    stalled: Stalled,
    branch: Branch,
    strategy: Strategy,
    attempts: _Attempts,
    directory: RunDirectory | None,
    rest: Callable[[], Mapping[str, object]],
) -> BranchOutcome:
    """Train an embedded strategy to its end, and contract it."""
    trace, begin = Trace(strategy, strategy.context.phases.total), attempts.begin
    training = phased_training(
        stalled,
        branch.strategy,
        strategy,
        lr_factor=0.5**attempts.number,
        done=begin.done if begin is not None else 0,
        state=begin.strategy if begin is not None else None,
    )
    if begin is not None:
        trace.load_state_dict(begin.trace)

    def after_step(step: Step) -> dict[str, float]:
        training.after_step(step)
        trace.note(step.index)
        return {**strategy.figures, **({"D": trace.rows[-1].norm} if strategy.deltas else {})}

    def keep() -> dict[str, object]:
        own = {"strategy": strategy.state_dict(), "trace": trace.state_dict()}
        return {**rest(), **own, **attempts.to_payload()}

    def keep_finite(state: Mapping[str, Any]) -> None:
        own = copy.deepcopy((strategy.state_dict(), trace.state_dict()))
        attempts.finite = BranchState(state, *own)

    outcome = run_phase(
        str(branch), strategy.title, training.trainer, emit=stalled.emit, stop=stalled.stop, run=directory,
        resume_state=begin.training if begin is not None else None,
        after_step=after_step, more_state=keep, on_finite_state=keep_finite,
    )  # fmt: skip
    report = strategy.contract()  # proj: what is left of the extension is gone, and nothing moved
    round_to(report.module, stalled.prepared.precision)  # what would be written is what is measured
    measured = {**report.to_json(), **({"restarts": attempts.number} if attempts.number else {})}
    rows = tuple(tuple(row) for row in trace.rows)
    record = BranchRecord(
        branch,
        loss=stalled.metrics(report.module, "validation")["loss"],
        history=replace(outcome.record, trace=rows),
        certificate=from_json(BranchCertificate, measured) if measured else None,
        calibrated=stalled.calibrated(report.module),
    )
    return BranchOutcome(record, copy.deepcopy(report.module.state_dict()), outcome.seconds)
