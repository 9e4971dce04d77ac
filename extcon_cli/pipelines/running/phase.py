"""One training phase of a pipeline: steps, events, validation, periodic saves, the best state.

`train`, the bifurcation and the fine-tuning of `prune` all run through here, so all of them resume alike.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from extcon_cli.averaging import BATCHES, WeightAverage
from extcon_cli.events import Emit, Event, Noted, PhaseEnded, PhaseStarted, Progress
from extcon_cli.report.results.records import Metrics, PhaseRecord, ValidationCurve
from extcon_cli.tasks import Task
from extcon_cli.training.global_batch_norm import global_batch_norm
from extcon_cli.training.interrupt import Stop
from extcon_cli.training.loop import Step, Trainer
from extcon_cli.training.run_directory import RunDirectory

PROGRESS_EVERY = 0.1
"""Seconds between two Progress events; each makes a GPU wait for its figures."""
POINTS = 1000
"""Points of a phase's record at most; the losses between two are averaged."""

Item = TypeVar("Item")
Kept = Literal["best", "last", "average"]
"""Which state of a phase is its result."""


@dataclass(frozen=True)
class Validation:
    """When to measure on the validation data, and which state to end with."""

    measure: Callable[[], Metrics]
    """Of the model as it is."""
    task: Task
    every: int
    """Epochs between two measurements; the last step is always followed by one."""
    keep_best: bool = True
    """End with the best state seen, else with the last."""
    before: bool = False
    """Measure before the first step as well, so that training cannot end worse than it began."""


@dataclass(frozen=True)
class Outcome:
    """What a phase leaves beside the model, which holds the kept state."""

    record: PhaseRecord
    validation: Metrics | None
    """Of the kept state."""
    best_step: int | None
    """Steps that the kept state has seen, where there was validation."""
    seconds: float
    kept: Kept = "last"
    """Which state the model holds."""


def run_phase(
    name: str,
    title: str,
    trainer: Trainer,
    *,
    emit: Emit,
    stop: Stop | None = None,
    run: RunDirectory | None = None,
    resume_state: Mapping[str, Any] | None = None,
    validation: Validation | None = None,
    after_step: Callable[[Step], Mapping[str, float] | None] | None = None,
    more_state: Callable[[], Mapping[str, Any]] | None = None,
    on_finite_state: Callable[[dict[str, Any]], None] | None = None,
    average: float | None = None,
) -> Outcome:
    """Run the trainer to its end.

    Args:
        name, title: of the phase, for events and saves.
        stop: asked between steps; then the state is saved and KeyboardInterrupt raised.
        run: where states are saved, every few seconds and at the end. None: nowhere.
        resume_state: the payload that `run.load()` gave for this phase; goes on from there.
        validation: when to measure on validation data. None: never, the last state is the result.
        after_step: acts on the parameters after each step; may return figures to show.
        more_state: what else belongs into a save; the caller finds it in the payload under "more".
        on_finite_state: given a copy of the state at every tenth of the way, where all parameters are finite, to go
            back to; with "more" it is what `resume_state` takes.
        average: share of the steps, the last, over which weights are averaged. The mean is the result, or a candidate
            beside the best state where one is kept. None: no mean.
    """
    began, shown = time.monotonic(), 0.0
    history = History(keep_best=validation is not None and validation.keep_best)
    mean = WeightAverage(average, trainer.total) if average is not None else None
    if resume_state is not None:
        if mean is not None:
            mean.load_state_dict(resume_state["average"], trainer.model)
        trainer.load_state_dict(resume_state["trainer"])
        history.load_state_dict(resume_state["history"])

    def state() -> dict[str, Any]:
        own = {"average": mean.state_dict()} if mean is not None else {}
        return {"trainer": trainer.state_dict(), "history": history.state_dict(), **own}

    def save() -> None:
        if run is not None:
            run.save(name, {**state(), "more": dict(more_state()) if more_state is not None else {}})

    threads = run.threads if run is not None else None
    if threads is not None:
        threads.new_phase()
    emit(PhaseStarted(name, title, trainer.total))
    if trainer.done:
        emit(Progress(name, trainer.done))
    if validation is not None and validation.before and resume_state is None:
        history.validate(trainer, validation)
    epoch = len(trainer.loader)
    stepped = time.perf_counter()
    for step in trainer:
        took = time.perf_counter() - stepped
        extra = after_step(step) if after_step is not None else None
        history.add(step)
        if mean is not None:
            mean.note(trainer.model, step.index)
        if validation is not None and (step.last or (step.index + 1) % (epoch * validation.every) == 0):
            trainer.check()
            history.validate(trainer, validation)
        if on_finite_state is not None and (step.index + 1) % max(1, step.total // 10) == 0 and _finite(trainer.model):
            on_finite_state(copy.deepcopy(state()))
        if step.last or time.monotonic() - shown >= PROGRESS_EVERY:
            last = history.validated[-1] if history.validated else None
            emit(
                Progress(
                    name,
                    trainer.done,
                    {**step.metrics, **(extra or {})},
                    validation=last.metrics if last is not None else {},
                    validated=last.step if last is not None else None,
                )
            )
            shown = time.monotonic()
        said = threads.watch(took) if threads is not None else None
        if said is not None:
            emit(Noted(said))
        due = run is not None and (said is not None or run.due())
        stopped, due = trainer.processes.any(stop is not None and stop.requested, due)
        if stopped or due:
            save()
        if stopped:
            raise KeyboardInterrupt
        stepped = time.perf_counter()
    trainer.check()
    save()
    state_kept, kept = _settle(trainer, history, validation, mean, emit)
    seconds = time.monotonic() - began
    emit(PhaseEnded(name, seconds, kept.metrics if kept is not None else {}))
    return Outcome(
        history.record(name),
        validation=kept.metrics if kept is not None else None,
        best_step=kept.step if kept is not None else None,
        seconds=seconds,
        kept=state_kept,
    )


def _settle(
    trainer: Trainer, history: History, validation: Validation | None, mean: WeightAverage | None, emit: Emit
) -> tuple[Kept, Validated | None]:
    """Let the model end in the state that is kept: which one that is, and its figures on the validation data."""
    kept = history.best or (history.validated[-1] if history.validated else None)
    if mean is not None:
        batches = (trainer.loader.batch(step) for step in range(min(BATCHES, len(trainer.loader))))
        inputs = (trainer.objective.task.arguments(inputs) for inputs, _ in batches)
        with global_batch_norm(trainer.processes):  # each has its part of every batch
            averaged = mean.result(inputs, least=1 if trainer.processes.several else 2)
        trainer.model.load_state_dict(averaged.state_dict())
        found = Validated(trainer.done, validation.measure()) if validation is not None else None
        best = history.best
        if best is None or found is None or trainer.objective.task.better(found.metrics, best.metrics):
            emit(Noted(f"kept: the mean of the weights of {mean.states} states"))
            return "average", found
        emit(Noted(f"kept: the state after step {best.step}, which is better than the mean of the weights"))
    if history.best_model is not None:
        trainer.load_weights(history.best_model)
        return "best", kept
    return "last", kept


@dataclass(frozen=True)
class Validated:
    """Figures on the validation data after `step` steps."""

    step: int
    metrics: Metrics


class History:
    """Losses, validation figures and the best state of a phase so far."""

    def __init__(self, *, keep_best: bool) -> None:
        self.keep_best = keep_best
        self.losses: list[Tensor] = []  # () each, on the device until they are needed
        self.older = torch.empty(0)  # (steps,) float32
        self.validated: list[Validated] = []
        self.best: Validated | None = None
        self.best_model: dict[str, Tensor] | None = None

    def add(self, step: Step) -> None:
        """Keep the loss of a step."""
        self.losses.append(step.loss)
        if len(self.losses) >= 1000:
            self._collect()

    def validate(self, trainer: Trainer, validation: Validation) -> None:
        """Measure the model as it is, and keep a copy of it where it is the best so far."""
        found = Validated(trainer.done, validation.measure())
        self.validated.append(found)
        if self.keep_best and validation.task.better(found.metrics, self.best.metrics if self.best else None):
            self.best = found
            self.best_model = trainer.weights()

    def state_dict(self) -> Mapping[str, Any]:
        """All of it, as torch.save takes it."""
        self._collect()
        return {
            "losses": self.older,
            "validated": [asdict(found) for found in self.validated],
            "best": asdict(self.best) if self.best is not None else None,
            "best_model": self.best_model,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.older, self.best_model = state["losses"], state["best_model"]
        self.validated = [Validated(**found) for found in state["validated"]]
        self.best = Validated(**state["best"]) if state["best"] is not None else None

    def record(self, phase: str) -> PhaseRecord:
        """At most `POINTS` points of the phase."""
        self._collect()
        count = len(self.older)
        width = max(1, -(-count // POINTS))
        ends = tuple(range(width, count + 1, width))
        curve = None
        if self.validated:
            names = self.validated[0].metrics
            figures = {name: tuple(found.metrics[name] for found in self.validated) for name in names}
            curve = ValidationCurve(tuple(found.step for found in self.validated), figures)
        measured = curve.metrics if curve is not None else {"accuracy": ()}
        return PhaseRecord(
            phase,
            ends,
            tuple(float(self.older[end - width : end].mean()) for end in ends),
            accuracy=self._last("accuracy", ends) if "accuracy" in measured else None,
            r2=self._last("r2", ends) if "r2" in measured else None,
            validation=curve,
        )

    def _last(self, figure: str, ends: tuple[int, ...]) -> tuple[float | None, ...]:
        """The figure as last measured at each of these steps."""
        found = [(item.step, item.metrics.get(figure)) for item in reversed(self.validated)]
        return tuple(next((value for step, value in found if step <= end), None) for end in ends)

    def _collect(self) -> None:
        if self.losses:
            self.older = torch.cat([self.older, torch.stack(self.losses).float().cpu()])
            self.losses = []


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def interruptible(items: Iterator[Item], stop: Stop) -> Iterator[Item]:
    """The items, with KeyboardInterrupt between two of them where somebody asked to stop."""
    for item in items:
        stop.check()
        yield item


def tee_events(emit: Emit, run: RunDirectory) -> Emit:
    """Events go to the listener and into the run directory."""

    def both(event: Event) -> None:
        run.log(event)
        emit(event)

    return both
