"""The third phase of pruning: the decided filters go to exactly zero while the others train on and take over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from extcon_cli.catalyst.bifurcation import Bifurcation, Flow, Penalty, Proximal
from extcon_cli.catalyst.compensate import Compensation, fit_compensation
from extcon_cli.catalyst.filters import norms
from extcon_cli.errors import GateError
from extcon_cli.events import PhaseEnded, PhaseStarted
from extcon_cli.pipelines.job import Job
from extcon_cli.pipelines.phase import run_phase
from extcon_cli.training.loop import Step
from extcon_cli.training.optim import total_steps

TRACE_POINTS = 60
"""Moments of the bifurcation that the report shows."""
MOVES = 20
"""In how many parts a filter's work is handed over while it shrinks."""


def bifurcate(job: Job, decided: Tensor, resume_state: Mapping[str, Any] | None) -> dict[str, Any]:
    """Take the decided filters to exactly zero while the others train; the norms and d over time, for the report."""
    spec = job.spec.bifurcate
    total = 0 if spec.method == "none" else total_steps(spec, len(job.prepared.data.train_loader(device="cpu", seed=0)))
    shrinking = _shrinking(job, decided, total)
    substitute = _handover(job, decided, every=max(1, round(spec.shrink * total) // MOVES))
    trace = _Trace(shrinking, every=max(1, total // TRACE_POINTS))
    if resume_state is not None:
        shrinking.load_state_dict(resume_state["more"]["bifurcation"])
        trace.load(resume_state["more"]["trace"])
        if substitute is not None:
            substitute.load_state_dict(resume_state["more"]["handover"])

    def shrink(step: Step | None) -> dict[str, float]:
        fallen = shrinking.step(step.lr if step is not None else 0.0)
        if substitute is not None:
            substitute.step(fallen)
        trace.add()
        return {"decided": shrinking.number, "dead": shrinking.dead}

    if total == 0:
        shrink(None)
    else:
        trainer = job.trainer(2, spec, job.module, penalty=shrinking.penalty if spec.method == "penalty" else None)
        outcome = run_phase(
            "bifurcate",
            "Bifurcating",
            trainer,
            emit=job.emit,
            stop=job.stop,
            run=job.run,
            resume_state=resume_state,
            after_step=shrink,
            more_state=lambda: {
                "decided": decided,
                "bifurcation": shrinking.state_dict(),
                "handover": substitute.state_dict() if substitute is not None else None,
                "trace": trace.state(),
            },
        )
        job.history.append(outcome.history)
        job.seconds["bifurcate"] = outcome.seconds
    if substitute is not None:
        substitute.move()
    shrinking.finish()
    if shrinking.missing:
        raise GateError(
            f"the target is missed: {shrinking.missing} of {int(decided.sum())} decided filters are not zero after "
            f"{total} steps of {spec.method}; raise prune.bifurcate.strength, take more steps, or use method: flow"
        )
    return trace.document()


def _shrinking(job: Job, decided: Tensor, total: int) -> Bifurcation:
    spec, these = job.spec.bifurcate, (job.module, job.filters, decided, job.spec.bifurcate.chi)
    if spec.method == "proximal":
        return Proximal(*these, strength=spec.strength)
    if spec.method == "penalty":
        return Penalty(*these, strength=spec.strength, epsilon=spec.epsilon)
    return Flow(*these, steps=max(1, round(spec.shrink * total)))


def _handover(job: Job, decided: Tensor, every: int) -> Compensation | None:
    """Least squares for what reads the decided filters, where the recipe asks for it."""
    spec = job.spec.compensate
    if not spec.enabled:
        return None
    size = job.prepared.data.spec.batch_size
    began = time.monotonic()
    job.emit(PhaseStarted("compensate", "Fitting stand-ins", None, "batch"))
    batches = job.batches(3, max(1, -(-spec.images // size)))
    found = fit_compensation(
        job.module,
        job.channels,
        job.filters,
        decided,
        batches,
        lambda batch: job.module(batch[0]),
        ridge=spec.ridge,
        every=every,
    )
    job.emit(PhaseEnded("compensate", time.monotonic() - began))
    return found


class _Trace:
    """Norms and d of every filter at some moments of the bifurcation."""

    def __init__(self, shrinking: Bifurcation, every: int) -> None:
        self.shrinking, self.every = shrinking, every
        self.steps: list[int] = [0]
        self.norm: list[Tensor] = [shrinking.start.cpu()]
        self.d: list[Tensor] = [shrinking.d.cpu()]

    def add(self) -> None:
        if self.shrinking.done % self.every == 0:
            self.steps.append(self.shrinking.done)
            self.norm.append(norms(self.shrinking.module, self.shrinking.filters).cpu())
            self.d.append(self.shrinking.d.cpu())

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "norm": torch.stack(self.norm), "d": torch.stack(self.d)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.steps, self.norm, self.d = list(state["steps"]), list(state["norm"]), list(state["d"])

    def document(self) -> dict[str, Any]:
        decided = self.shrinking.decided.cpu().tolist()
        norm, d = ([row.tolist() for row in rows] for rows in (self.norm, self.d))
        return {"steps": self.steps, "norm": norm, "d": d, "decided": decided}
