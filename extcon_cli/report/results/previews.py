"""What would be done: a plan, a dry run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from extcon_cli.report.results.records import LatencyFigures, Result, Size
from extcon_cli.report.serialise import OPTIONAL


@dataclass(frozen=True)
class PlanGroup:
    """What a plan does to a channel group."""

    name: str
    channels: int
    sensitivity: float | None
    """By how much the loss on calibration samples rises where the lower half of the channels is silent."""
    reason: str | None
    """Why the group stays whole. null: it can lose channels."""
    remove: tuple[int, ...]
    """The channels that go."""


@dataclass(frozen=True, kw_only=True)
class PlanResult(Result):
    """The result of `extcon plan`, and what its file holds."""

    command: Literal["plan"] = "plan"
    checkpoint: str
    sha256: str
    """Of the checkpoint's tensors."""
    output: str
    asked: str
    """`ratio 0.5`, `macs 0.5`."""
    before: Size
    after: Size
    """What will be left, exactly."""
    latency: tuple[LatencyFigures, ...] | None = field(default=None, metadata=OPTIONAL)
    """Of the model and of a copy with the widths that will be left, measured; None: not measured."""
    filters: int
    """That go."""
    prunable: int
    groups: tuple[PlanGroup, ...]


@dataclass(frozen=True, kw_only=True)
class DryRunResult(Result):
    """The result of `--dry-run`: nothing stands in the way, and this would be done."""

    command: Literal["dry-run"] = "dry-run"
    tried: str
    """`prune`, `bypass` or `train`."""
    checkpoint: str | None
    """null: from scratch."""
    output: str
    """What would be written."""
    device: str
    samples: Mapping[str, int]
    """Of `train`, `validation` and `test`."""
    read: int
    """Samples that were read: all of them, or as many as some seconds allow."""
    steps: Mapping[str, int]
    """Training steps of each phase of the real run; of `bypass` for each extension."""
    before: Size | None
    """null: training from scratch changes no size."""
    after: Size | None
    """What would be left, by scores from two batches. null: as before."""
    seconds: float
