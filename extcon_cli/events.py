"""What a run tells while it goes on: frozen events, drawn by the console layer. Nothing here prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunStarted:
    """A command begins: its name, the checkpoint (or recipe) it works on, and where the result goes."""

    command: str
    subject: str
    output: str | None = None
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class PhaseStarted:
    """One phase of a pipeline begins. `total` counts `unit`s; None: of unknown length."""

    phase: str
    title: str
    total: int | None = None
    unit: str = "step"


@dataclass(frozen=True)
class Progress:
    """`done` of the phase's total are done; `metrics` are this step's (loss, accuracy of its batch, dead ...)."""

    phase: str
    done: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    """Figures on the validation data, measured after `validated` steps; empty: none yet."""
    validated: int | None = None


@dataclass(frozen=True)
class PhaseEnded:
    """A phase is over, after `seconds` of wall time, with its closing figures."""

    phase: str
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Noted:
    """A line that the user should see in any case; `warning` marks what may need their attention."""

    message: str
    warning: bool = False


@dataclass(frozen=True)
class Saved:
    """A file was written, whole."""

    path: str
    what: str = "checkpoint"


Event = RunStarted | PhaseStarted | Progress | PhaseEnded | Noted | Saved
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of a caller that does not want to hear anything."""


@contextmanager
def phase(
    emit: Emit, name: str, title: str, total: int | None = None, unit: str = "batch"
) -> Iterator[dict[str, float]]:
    """Tell of a phase from its begin to its end; one that raises has no end.

    Figures put into the dict that it gives are the closing ones.
    """
    began, figures = time.monotonic(), dict[str, float]()
    emit(PhaseStarted(name, title, total, unit))
    yield figures
    emit(PhaseEnded(name, time.monotonic() - began, figures))
