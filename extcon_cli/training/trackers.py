"""A listener that gives a run's figures to TensorBoard, Weights & Biases or Trackio, through Accelerate's trackers.

It draws nothing, and it never stops a run: a tracker that fails is left out from then on, with a warning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from extcon_cli.errors import UsageError, one_line
from extcon_cli.events import Emit, Event, Noted, PhaseEnded, PhaseStarted, Progress, RunStarted

TRACKERS = ("tensorboard", "wandb", "trackio")
FOLDER = "runs"
"""Beside the output: where TensorBoard's files go."""
PROJECT = "extcon"
"""Under which the others file a run, which they name after its output."""


def check_trackers(names: Sequence[str]) -> None:
    """UsageError where a tracker is none, or not installed. Imports nothing."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"--log-with {name}: should be one of {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise UsageError(f"--log-with {name} needs {name}: pip install 'extcon[{name}]'  ({name})")


class Tracking:
    """Tells events on, and logs their figures: `finetune/loss`, `finetune/validation/accuracy`, `removal/end/accuracy`.

    Args:
        names: of trackers, checked.
        emit: the listener that hears all events, and the warnings from here.
    """

    def __init__(self, names: Sequence[str], emit: Emit) -> None:
        self._names, self._emit = tuple(names), emit
        self._trackers: dict[str, Any] = {}
        self._before = self._step = 0  # steps of earlier phases, and all so far
        self._validated: int | None = None

    def __call__(self, event: Event) -> None:
        """Log what there is to log, then tell it on."""
        if isinstance(event, RunStarted):
            self.close()
            self._begin(event)
        elif isinstance(event, PhaseStarted):
            self._before, self._validated = self._step, None
        elif isinstance(event, Progress):
            self._step = self._before + event.done
            found = dict(event.metrics)
            if event.validated != self._validated:
                self._validated = event.validated
                found |= {f"validation/{name}": value for name, value in event.validation.items()}
            self._log(event.phase, found)
        elif isinstance(event, PhaseEnded):
            self._log(event.phase, {f"end/{name}": value for name, value in event.metrics.items()})
        self._emit(event)

    def close(self) -> None:
        """The run is over."""
        self._each(lambda tracker: tracker.finish())
        self._trackers.clear()

    def _begin(self, event: RunStarted) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self._before = self._step = 0
        output = Path(event.output or event.subject)
        facts = {"command": event.command, "subject": event.subject, "device": event.device, "seed": event.seed}
        for name in self._names:
            kind: Callable[..., Any] = LOGGER_TYPE_TO_CLASS[name]
            self._trackers[name] = None
            self._try(name, partial(self._start, name, kind, output, facts))

    def _start(self, name: str, kind: Callable[..., Any], output: Path, facts: Mapping[str, object]) -> None:
        if name == "tensorboard":
            tracker = kind(output.stem, logging_dir=str(output.parent / FOLDER))
        else:
            tracker = kind(PROJECT, name=output.stem)
        tracker.start()
        tracker.store_init_configuration(dict(facts))
        self._trackers[name] = tracker

    def _log(self, phase: str, figures: Mapping[str, float]) -> None:
        values = {f"{phase}/{name}": value for name, value in figures.items()}
        if values:
            self._each(lambda tracker: tracker.log(values, step=self._step))

    def _each(self, act: Callable[[Any], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(act, tracker))

    def _try(self, name: str, act: Callable[[], object]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # stdout is the result's
                act()
        except Exception as error:  # a tracker's own: any kind
            self._trackers.pop(name, None)
            self._emit(Noted(f"{name} is left out: {one_line(error)}", warning=True))
