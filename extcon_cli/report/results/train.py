"""What training and evaluating report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from extcon_cli.report.results.records import Metrics, PhaseRecord, Record, Result, RunFacts
from extcon_cli.report.serialise import INLINE, OPTIONAL


@dataclass(frozen=True)
class TrainHistory:
    """How a training went."""

    phases: tuple[PhaseRecord, ...]


@dataclass(frozen=True, kw_only=True)
class TrainRecord(Record):
    """What a training leaves in the history of its checkpoint."""

    command: Literal["train"] = "train"
    metrics: Metrics
    """On the test data."""
    validation: Metrics | None
    """None: there are no validation data."""
    params: int


@dataclass(frozen=True, kw_only=True)
class TrainResult(TrainRecord, Result):
    """The result of `extcon train`."""

    run: RunFacts = field(metadata=INLINE)
    best_step: int | None
    """Steps that the kept state has seen, where there was validation."""
    kept: Literal["best", "last", "average"]
    """Which state it is: the best on the validation data, the last, or the mean of the last weights."""
    history: TrainHistory | None = field(default=None, metadata=OPTIONAL)
    """Left out by --json."""


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Result):
    """The result of `extcon evaluate`."""

    command: Literal["evaluate"] = "evaluate"
    checkpoint: str
    split: str
    samples: int
    metrics: Metrics
    device: str
    test_caution: str | None = None
    """Why the figures say less than they seem to: the model may have been trained on these rows. None: nothing
    speaks against them."""
