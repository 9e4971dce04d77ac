"""What a user sees while a run goes on: figures with the name of what they were measured on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from extcon_cli.cli import console
from extcon_cli.cli.console import Live, Plain
from extcon_cli.events import Event, PhaseStarted, Progress

STARTED = PhaseStarted("train", "Training", 600)
BEFORE = Progress("train", 200, {"loss": 0.12, "accuracy": 0.981})
VALIDATION = {"loss": 0.3, "accuracy": 0.972}
AFTER = Progress("train", 400, {"loss": 0.1, "lr": 0.01, "accuracy": 0.99}, validation=VALIDATION, validated=300)


def plain(*events: Event) -> list[str]:
    stream = io.StringIO()
    draw = Plain(stream)
    for event in events:
        draw(event)
    return stream.getvalue().splitlines()


def test_the_validation_figure_is_named_and_dated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_EVERY", 0.0)
    _, before, after = plain(STARTED, BEFORE, AFTER)
    assert "loss 0.1200  accuracy 98.10 %" in before
    assert "val" not in before
    assert "loss 0.1000  accuracy 99.00 %  val accuracy 97.20 % (step 300)  lr 0.01" in after


def test_a_regression_shows_its_own_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_EVERY", 0.0)
    event = Progress("train", 2, {"loss": 0.1}, validation={"loss": 0.3, "r2": 0.5}, validated=1)
    assert "loss 0.1000  val r2 0.5000 (step 1)" in plain(STARTED, event)[-1]


def test_live_says_the_same() -> None:
    stream = io.StringIO()
    draw = Live(Console(file=stream, force_terminal=True, width=200, highlight=False))
    for event in (STARTED, AFTER):
        draw(event)
    draw.progress.refresh()
    draw.close()
    assert "accuracy 99.00 %  val accuracy 97.20 % (step 300)" in stream.getvalue()
