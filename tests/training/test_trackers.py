"""What a tracker is given of a run; and that a tracker that fails, or is not there, is no reason to lose the run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker

from extcon_cli.cli.console import listening
from extcon_cli.errors import UsageError
from extcon_cli.events import Event, Noted, PhaseEnded, PhaseStarted, Progress, RunStarted
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.training import trackers
from extcon_cli.training.trackers import Tracking, check_trackers


class Book(GeneralTracker):
    """Keeps what it is given."""

    name = "tensorboard"
    requires_logging_directory = True
    written: list[tuple[int | None, dict[str, float]]] = []  # noqa: RUF012 - of all
    begun: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
    finished = 0

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.place = f"{logging_dir}/{run_name}"

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        Book.begun.append((self.place, values))

    def log(self, values: dict[str, float], step: int | None = None, **more: Any) -> None:
        sys.stdout.write("a tracker may print")
        Book.written.append((step, values))

    def finish(self) -> None:
        Book.finished += 1


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> type[Book]:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Book)
    monkeypatch.setattr(Book, "written", [])
    monkeypatch.setattr(Book, "begun", [])
    monkeypatch.setattr(Book, "finished", 0)
    return Book


def test_phases_follow_each_other_and_validation_is_logged_once(book: type[Book]) -> None:
    heard: list[Event] = []
    tell = Tracking(["tensorboard"], heard.append)
    events = [
        RunStarted("prune", "net.pt", "out/net.pruned.safetensors", "cpu", 3),
        PhaseStarted("score", "Scoring", 2),
        Progress("score", 2),
        PhaseEnded("score", 1.0),
        PhaseStarted("finetune", "Fine-tuning", 9),
        Progress("finetune", 4, {"loss": 0.5}),
        Progress("finetune", 8, {"loss": 0.4}, validation={"accuracy": 0.9}, validated=6),
        Progress("finetune", 9, {"loss": 0.3}, validation={"accuracy": 0.9}, validated=6),
        PhaseEnded("finetune", 2.0, {"accuracy": 0.9}),
    ]
    for event in events:
        tell(event)
    tell.close()
    facts = {"command": "prune", "subject": "net.pt", "device": "cpu", "seed": 3}
    assert book.begun == [("out/runs/net.pruned", facts)]
    assert book.written == [
        (6, {"finetune/loss": 0.5}),
        (10, {"finetune/loss": 0.4, "finetune/validation/accuracy": 0.9}),
        (11, {"finetune/loss": 0.3}),
        (11, {"finetune/end/accuracy": 0.9}),
    ]
    assert book.finished == 1
    assert heard == events


def test_a_tracker_that_fails_is_left_out_with_a_warning(book: type[Book], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "log", lambda self, values, step=None: 1 / 0)
    heard: list[Event] = []
    tell = Tracking(["tensorboard"], heard.append)
    for event in (RunStarted("train", "x", "y"), *(Progress("train", done, {"loss": 1.0}) for done in (1, 2))):
        tell(event)
    assert [event.message for event in heard if isinstance(event, Noted)] == [
        "tensorboard is left out: division by zero"
    ]


def test_a_training_is_logged_and_stdout_stays_the_result_s(
    book: type[Book], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"arch": "zoo:convnet", "kwargs": {"widths": [4], "channels": 1}, "input_shape": [1, 8, 8]}
    recipe = from_dict({"model": model, "data": {"dataset": "digits"}, "train": {"steps": 2}})
    with listening(quiet=True, log_with=["tensorboard"]) as emit:
        train(recipe, checkpoint=None, output=tmp_path / "net.pt", device="cpu", emit=emit)
    assert book.begun[0][0] == str(tmp_path / "runs" / "net")
    names = {name for _, values in book.written for name in values}
    assert {"train/loss", "train/lr", "train/validation/accuracy", "evaluate/end/accuracy"} <= names
    assert book.finished == 1
    assert capsys.readouterr().out == ""


def test_a_tracker_that_is_none_or_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'extcon\[wandb\]'"):
        check_trackers(["wandb"])
    with pytest.raises(UsageError, match="should be one of tensorboard, wandb, trackio"):
        check_trackers(["comet"])
    check_trackers([])
