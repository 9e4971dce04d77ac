"""One training phase of a pipeline: steps, events, looks at the validation data, periodic saves, the best state.

`train`, the bifurcation and the fine-tuning of `prune` all run through here, so all of them resume alike.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from extcon_cli.events import Emit, PhaseEnded, PhaseStarted, Progress
from extcon_cli.recipe.schema import Task
from extcon_cli.training.interrupt import Stop
from extcon_cli.training.loop import Step, Trainer
from extcon_cli.training.objective import better
from extcon_cli.training.run_directory import RunDirectory

PROGRESS_EVERY = 0.1
"""Seconds between two Progress events; each makes a GPU wait for its figures."""
POINTS = 1000
"""Points of a phase's history at most; the losses between two are averaged."""

Metrics = dict[str, float]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Validation:
    """When to look at the validation data, and which state to end with."""

    measure: Callable[[], Metrics]
    """Of the model as it is."""
    task: Task
    every: int
    """Epochs between two looks; the last step is always looked at."""
    keep_best: bool = True
    """End with the best state seen, else with the last."""
    before: bool = False
    """Look before the first step as well, so that training cannot end worse than it began."""


@dataclass(frozen=True)
class Outcome:
    """What a phase leaves beside the model, which holds the kept state."""

    history: dict[str, Any]
    """{"phase", "steps", "loss", "accuracy" or "r2" (as last measured; None: not yet), "validation": {...}}."""
    validation: Metrics | None
    """Of the kept state."""
    best_step: int | None
    """Steps that the kept state has seen, where there was validation."""
    seconds: float


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
        good: given a copy of the state at every tenth of the way, where all parameters are finite, to go back to;
            with "more" it is what `resume_state` takes.
    """
    began, shown = time.monotonic(), 0.0
    notes = _Notes(validation)
    if resume_state is not None:
        trainer.load_state_dict(resume_state["trainer"])
        notes.load(resume_state["notes"])

    def state() -> dict[str, Any]:
        return {"trainer": trainer.state_dict(), "notes": notes.state()}

    def save() -> None:
        if run is not None:
            run.save(name, {**state(), "more": dict(more_state()) if more_state is not None else {}})

    emit(PhaseStarted(name, title, trainer.total))
    if trainer.done:
        emit(Progress(name, trainer.done))
    if validation is not None and validation.before and resume_state is None:
        notes.look(trainer, validation)
    epoch = len(trainer.loader)
    for step in trainer:
        extra = after_step(step) if after_step is not None else None
        notes.add(step)
        if validation is not None and (step.last or (step.index + 1) % (epoch * validation.every) == 0):
            trainer.check()
            notes.look(trainer, validation)
        if on_finite_state is not None and (step.index + 1) % max(1, step.total // 10) == 0 and _finite(trainer.model):
            on_finite_state(copy.deepcopy(state()))
        if step.last or time.monotonic() - shown >= PROGRESS_EVERY:
            emit(Progress(name, trainer.done, {**step.metrics, **notes.shown(), **(extra or {})}))
            shown = time.monotonic()
        if stop is not None and stop.requested:
            save()
            raise KeyboardInterrupt
        if run is not None and run.due():
            save()
    trainer.check()
    save()
    if validation is not None and validation.keep_best and notes.best is not None:
        trainer.model.load_state_dict(notes.best["model"])
    outcome = Outcome(notes.history(name), *notes.result(), seconds=time.monotonic() - began)
    emit(PhaseEnded(name, outcome.seconds, outcome.validation or {}))
    return outcome


class _Notes:
    """Losses, validation figures and the best state of a phase so far."""

    def __init__(self, validation: Validation | None) -> None:
        self.keep_best = validation is not None and validation.keep_best
        self.losses: list[Tensor] = []  # () each, on the device until they are needed
        self.older = torch.empty(0)  # (steps,) float32
        self.seen: list[dict[str, Any]] = []  # {"step", "metrics"} for each look
        self.best: dict[str, Any] | None = None  # {"step", "metrics", "model"}

    def add(self, step: Step) -> None:
        self.losses.append(step.loss)
        if len(self.losses) >= 1000:
            self._collect()

    def look(self, trainer: Trainer, validation: Validation) -> None:
        metrics = validation.measure()
        self.seen.append({"step": trainer.done, "metrics": metrics})
        if validation.keep_best and better(validation.task, metrics, self.best and self.best["metrics"]):
            model = {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}
            self.best = {"step": trainer.done, "metrics": metrics, "model": model}

    def shown(self) -> Metrics:
        """The last validation figures, where there are any, in place of those of one batch."""
        return dict(self.seen[-1]["metrics"], loss=float(self.losses[-1])) if self.seen and self.losses else {}

    def result(self) -> tuple[Metrics | None, int | None]:
        final = self.best if self.best is not None else self.seen[-1] if self.seen else None
        return (final["metrics"], final["step"]) if final else (None, None)

    def state(self) -> dict[str, Any]:
        self._collect()
        return {"losses": self.older, "seen": self.seen, "best": self.best}

    def load(self, state: Mapping[str, Any]) -> None:
        self.older, self.seen, self.best = state["losses"], list(state["seen"]), state["best"]

    def history(self, phase: str) -> dict[str, Any]:
        self._collect()
        count = len(self.older)
        width = max(1, -(-count // POINTS))
        ends = list(range(width, count + 1, width))
        figure = "accuracy" if not self.seen or "accuracy" in self.seen[0]["metrics"] else "r2"
        looked = [(look["step"], look["metrics"].get(figure)) for look in self.seen]
        return {
            "phase": phase,
            "steps": ends,
            "loss": [float(self.older[end - width : end].mean()) for end in ends],
            figure: [next((value for step, value in reversed(looked) if step <= end), None) for end in ends],
            "validation": {
                "steps": [look["step"] for look in self.seen],
                **{key: [look["metrics"][key] for look in self.seen] for key in self.seen[0]["metrics"]},
            }
            if self.seen
            else None,
        }

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

    def both(event: Any) -> None:
        run.log(event)
        emit(event)

    return both
