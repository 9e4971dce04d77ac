"""What a user sees while a run goes on: events, drawn live on a terminal, as plain lines elsewhere. All on stderr.

`listening` picks the renderer; each throttles itself. Results are drawn by results.py, on stdout.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
)
from rich.text import Text

from extcon_cli.cli.eta import Remaining
from extcon_cli.cli.streams import shows
from extcon_cli.events import Emit, Event, Noted, PhaseEnded, PhaseStarted, RunStarted, Saved, ignore
from extcon_cli.events import Progress as Progressed
from extcon_cli.processes import launched
from extcon_cli.report.numbers import duration, figure, judge
from extcon_cli.training.trackers import Tracking

LINE_EVERY = 5.0
"""Seconds between two plain lines of the same phase."""


class Renderer(Protocol):
    """Draws events until it is closed."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


@contextmanager
def listening(*, quiet: bool, log_with: Sequence[str] | None = None) -> Iterator[Emit]:
    """The listener for a pipeline: live on a terminal, plain lines elsewhere and in CI, warnings only when quiet.

    `log_with` names the trackers that are given the figures as well.
    """
    renderer: Renderer
    if launched().place:  # of several processes the first one tells
        yield ignore
        return
    if quiet:
        renderer = Quiet(sys.stderr)
    elif sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        renderer = Live(Console(stderr=True, highlight=False))
    else:
        renderer = Plain(sys.stderr)
    tracking = Tracking(log_with or (), renderer)
    try:
        yield tracking if log_with else renderer
    finally:
        tracking.close()
        renderer.close()


class Quiet:
    """Says nothing but warnings."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noted) and event.warning:
            print(f"extcon: warning: {event.message}", file=self.stream, flush=True)

    def close(self) -> None:
        """Nothing to tidy."""


class Plain:
    """One line when a phase starts, one every few seconds, one when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.phase: PhaseStarted | None = None
        self.remaining = Remaining(None)
        self.last = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, RunStarted):
            self._line(_opening(event))
        elif isinstance(event, PhaseStarted):
            self.phase, self.remaining, self.last = event, Remaining(event.total), now
            self._line(f"{event.title} ..." + (f" {event.total} {_plural(event.unit)}" if event.total else ""))
        elif isinstance(event, Progressed) and self.phase is not None:
            left = self.remaining.seconds(event.done, now)
            if now - self.last >= LINE_EVERY:
                self.last = now
                done = f"{event.done}/{self.phase.total or '?'}"
                self._line(f"{self.phase.title}  {done}  {_progress(event)}{_left(left)}".rstrip())
        elif isinstance(event, PhaseEnded):
            title = self.phase.title if self.phase is not None else event.phase
            self._line(f"{title} done in {duration(event.seconds)}  {_figures(event.metrics)}".rstrip())
        elif isinstance(event, Noted):
            self._line(("warning: " if event.warning else "") + event.message)
        elif isinstance(event, Saved):
            self._line(f"wrote {event.path}")

    def close(self) -> None:
        """Nothing to tidy."""

    def _line(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class Live:
    """A bar for the running phase with ETA and figures; a ticked line for each that is over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.tick = "✓ " if shows("✓", sys.stderr) else "* "
        self.progress = Progress(
            SpinnerColumn("dots" if shows("⠋✓", sys.stderr) else "line", style="cyan"),
            TextColumn("{task.description:<18}", style="bold", markup=False),
            BarColumn(bar_width=20, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", style="dim", markup=False),
            console=console,
            transient=True,
            refresh_per_second=8,
        )
        self.task: TaskID | None = None
        self.remaining = Remaining(None)
        self.phase: PhaseStarted | None = None
        self.progress.start()

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.console.print(Text(_opening(event), style="bold"))
        elif isinstance(event, PhaseStarted):
            self._drop()
            self.phase, self.remaining = event, Remaining(event.total)
            self.task = self.progress.add_task(event.title, total=event.total, figures="")
        elif isinstance(event, Progressed) and self.task is not None:
            left = self.remaining.seconds(event.done, time.monotonic())
            self.progress.update(self.task, completed=event.done, figures=f"{_progress(event)}{_left(left)}")
        elif isinstance(event, PhaseEnded):
            title = self.phase.title if self.phase is not None else event.phase
            self._drop()
            line = Text.assemble((self.tick, "green"), f"{title:<18}", (f"{duration(event.seconds):>8}  ", "cyan"))
            self.console.print(line.append(_figures(event.metrics), style="dim"))
        elif isinstance(event, Noted):
            mark = ("! ", "yellow") if event.warning else ("  ", "")
            self.console.print(Text.assemble(mark, (event.message, "" if event.warning else "dim")))
        elif isinstance(event, Saved):
            self.console.print(Text.assemble((self.tick, "green"), f"Wrote {event.path}"))

    def close(self) -> None:
        """Take the bar away."""
        self._drop()
        self.progress.stop()

    def _drop(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.progress.refresh()
            self.task = None


def _opening(event: RunStarted) -> str:
    arrow = f" -> {event.output}" if event.output else ""
    return f"extcon {event.command}  {event.subject}{arrow}  ({event.device}, seed {event.seed})"


def _figures(metrics: Mapping[str, float]) -> str:
    if "decided" in metrics:
        rest = {name: value for name, value in metrics.items() if name not in ("decided", "dead")}
        return f"{_figures(rest)}  dead {metrics.get('dead', 0):.0f}/{metrics['decided']:.0f}"
    return "  ".join(f"{name} {figure(name, value)}" for name, value in metrics.items())


def _progress(event: Progressed) -> str:
    """This step's figures, the main one on the validation data with the step it was measured after, and the rate."""
    parts = [_figures({name: value for name, value in event.metrics.items() if name != "lr"})]
    if name := judge(event.validation):
        parts.append(f"val {name} {figure(name, event.validation[name])} (step {event.validated})")
    if "lr" in event.metrics:
        parts.append(_figures({"lr": event.metrics["lr"]}))
    return "  ".join(parts).strip()


def _left(seconds: float | None) -> str:
    return f"  {duration(seconds)} left" if seconds is not None else ""


def _plural(unit: str) -> str:
    return f"{unit}es" if unit.endswith("ch") else f"{unit}s"
