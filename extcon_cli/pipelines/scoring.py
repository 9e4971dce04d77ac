"""The first phase of pruning: what each filter is worth, by the method that the recipe names."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from extcon_cli.catalyst import scores
from extcon_cli.catalyst.regulariser import Race, group_lasso
from extcon_cli.events import PhaseEnded, PhaseStarted, Progress
from extcon_cli.pipelines.job import Job
from extcon_cli.pipelines.phase import run_phase
from extcon_cli.recipe.schema import BifurcateSpec
from extcon_cli.training.loop import Step
from extcon_cli.training.objective import objective, prediction


def score(job: Job) -> Tensor:
    """One number a filter (n,), the larger the more it matters. The model is as it was."""
    spec = job.spec.score
    if spec.method in ("energy", "taylor"):
        return _summed(job, scores.energy if spec.method == "energy" else scores.taylor)
    if spec.method == "magnitude":
        return scores.magnitude(job.module, job.filters)
    if spec.method == "random":
        return scores.random_scores(job.filters, job.prepared.recipe.seed)
    return _trained(job)


def _summed(job: Job, method: Callable[..., Tensor]) -> Tensor:
    """Energy or Taylor over training batches, weights frozen."""
    spec, task = job.spec.score, objective(job.prepared.recipe.task)
    began = time.monotonic()
    job.emit(PhaseStarted("score", "Scoring filters", spec.batches, "batch"))

    def loss(numbered: tuple[int, Any]) -> Tensor:
        number, (x, y) = numbered
        job.emit(Progress("score", number + 1))
        with job.accelerator.autocast():
            z = prediction(job.module(x))
        return task(z, y)

    found = method(job.module, job.filters, enumerate(job.batches(1, spec.batches, spec.batch_size)), loss)
    job.seconds["score"] = time.monotonic() - began
    job.emit(PhaseEnded("score", job.seconds["score"]))
    return found


def _trained(job: Job) -> Tensor:
    """The race or Group Lasso: train a copy with the regulariser and look at what it leaves."""
    spec = job.spec.score
    copied: nn.Module = copy.deepcopy(job.module)
    length = {"steps": spec.steps, "epochs": None}
    phase: BifurcateSpec = job.spec.bifurcate.model_copy(update=length)
    race = Race.begin(copied, job.filters, c=spec.c, strength=spec.strength)

    def lasso() -> Tensor:
        return spec.strength * group_lasso(copied, job.filters)

    def follow(step: Step) -> None:
        race.step(step.lr)

    racing = spec.method == "race"
    trainer = job.trainer(1, phase, copied, penalty=race.penalty if racing else lasso)
    outcome = run_phase(
        "score", "Racing" if racing else "Group Lasso", trainer, emit=job.emit, stop=job.stop,
        after_step=follow if racing else None,
    )  # fmt: skip
    job.seconds["score"] = outcome.seconds
    return race.scores() if racing else scores.magnitude(copied, job.filters)
