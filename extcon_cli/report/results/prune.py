"""What pruning reports: what went, what is left, for one target and for several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from extcon_cli.report.results.export import ExportResult
from extcon_cli.report.results.records import (
    CertificateRecord,
    LatencyFigures,
    LayerWidth,
    Metrics,
    ModelStats,
    PhaseRecord,
    Record,
    Result,
    RunFacts,
)
from extcon_cli.report.serialise import INLINE, OPTIONAL


@dataclass(frozen=True)
class TargetFigures:
    """A budget that was asked for, and what the result has."""

    quantity: str
    """`macs`, `params`, `size` in bytes, or `latency` in seconds."""
    asked: str  # a share of the original, bytes such as 10MB, or a time such as 4ms
    budget: float
    reached: float


@dataclass(frozen=True)
class RemovalFigures:
    """How much went, and how far outputs moved when it went."""

    requested_ratio: float | None
    ratio: float
    filters: int
    prunable: int
    removable_share: float
    metrics_before_removal: Metrics
    metrics_after_removal: Metrics
    max_difference: float
    largest_output: float
    relative_difference: float
    argmax_agreement: float
    target: TargetFigures | None = field(default=None, metadata=OPTIONAL)
    """The budget, where one was asked for."""


@dataclass(frozen=True)
class FrozenGroup:
    """A channel group that stays whole, and why."""

    group: str
    reason: str


@dataclass(frozen=True)
class SizeChange:
    """A number of a configuration."""

    before: float | None
    after: float


@dataclass(frozen=True)
class FolderFigures:
    """How the folder of transformers, or the checkpoint of Ultralytics, that was written says its widths."""

    widths: Literal["uniform", "free"]
    config: Mapping[str, SizeChange]
    """The numbers of the configuration, or of the YAML, that changed; empty: they do not say the widths."""
    plain_difference: float | None
    """Of the largest output, between the model and what `from_pretrained`, or the YAML, gives; None: it cannot."""
    uniform_share: float
    """Of the parameters, in channels that can go where all layers stay alike."""
    free_share: float
    """The same where layers have widths of their own."""


@dataclass(frozen=True)
class BifurcationTrace:
    """||F|| and d of every filter at some moments of the bifurcation."""

    steps: tuple[int, ...]
    norm: tuple[tuple[float, ...], ...]  # (moments, filters)
    d: tuple[tuple[float, ...], ...]  # (moments, filters)
    decided: tuple[bool, ...]  # (filters,) that go


@dataclass(frozen=True)
class PruneHistory:
    """How a pruning went, for the figures of its report."""

    phases: tuple[PhaseRecord, ...]
    bifurcation: BifurcationTrace


@dataclass(frozen=True, kw_only=True)
class PruneRecord(Record):
    """What a pruning leaves in the history of its checkpoint."""

    command: Literal["prune"] = "prune"
    before: ModelStats
    after: ModelStats
    removal: RemovalFigures
    certificate: CertificateRecord


@dataclass(frozen=True, kw_only=True)
class PruneResult(PruneRecord, Result):
    """The result of `extcon prune`."""

    run: RunFacts = field(metadata=INLINE)
    layers: tuple[LayerWidth, ...]
    frozen: tuple[FrozenGroup, ...]
    unreached: tuple[str, ...] = ()
    """Modules with parameters that no input reaches: what may feed them stays."""
    latency: tuple[LatencyFigures, ...] | None = field(default=None, metadata=OPTIONAL)
    """Before and after, for each batch size. None: not measured."""
    folder: FolderFigures | None = field(default=None, metadata=OPTIONAL)
    """Of a folder of transformers, or a checkpoint of Ultralytics."""
    exported: tuple[ExportResult, ...] | None = field(default=None, metadata=OPTIONAL)
    """With --export."""
    history: PruneHistory | None = field(default=None, metadata=OPTIONAL)
    """None: nothing was trained. Left out by --json."""


@dataclass(frozen=True)
class SweepPoint:
    """What became of one target."""

    asked: str
    """`0.5`, `10MB`."""
    output: str | None
    """null: a gate has failed, and nothing was written."""
    result: PruneResult | None
    """null: a gate has failed before all was measured."""
    message: str | None
    """Why nothing was written. null: it was."""


@dataclass(frozen=True, kw_only=True)
class SweepResult(Result):
    """The result of `extcon prune` with several targets."""

    command: Literal["sweep"] = "sweep"
    checkpoint: str
    quantity: str
    """What the targets are of: `ratio`, `macs`, `params`, `size`."""
    before: ModelStats | None
    """null: no target got so far that it was measured."""
    points: tuple[SweepPoint, ...]
    """In the order in which they were asked for."""
    knee: str | None
    """The target where the trade-off between what is left and what it is worth bends. null: it does not."""
    seconds: float
