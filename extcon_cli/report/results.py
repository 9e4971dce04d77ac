"""The result of each command, as a value: what `--json` prints, reports show and `extcon schema` describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from extcon_cli.report.bypass_results import BypassResult, Diagnosis
from extcon_cli.report.compare_results import CompareResult
from extcon_cli.report.export_results import ExportResult
from extcon_cli.report.records import (
    CertificateRecord,
    LatencyFigures,
    Layer,
    LayerWidth,
    Metrics,
    ModelStats,
    OutputDifference,
    PhaseRecord,
    Record,
    Result,
    RunFacts,
    Size,
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


@dataclass(frozen=True)
class GroupSummary:
    """A channel group: what of it could go and what it would save."""

    name: str
    channels: int
    dead: int
    removable: int
    prunable: bool
    params_per_channel: int
    reason: str | None  # why it stays


@dataclass(frozen=True, kw_only=True)
class InspectResult(Result):
    """The result of `extcon inspect`."""

    command: Literal["inspect"] = "inspect"
    checkpoint: str
    arch: str | None
    input_shape: tuple[int, ...]
    """Of one sample; empty where `inputs` say more."""
    inputs: Mapping[str, str] | None = field(default=None, metadata=OPTIONAL)
    """Where they are not one tensor of floats: what each is, by its argument."""
    size: Size = field(metadata=INLINE)
    file_bytes: int
    removable_share: float
    """Of the parameters, in channels that could go."""
    layers: tuple[Layer, ...]
    groups: tuple[GroupSummary, ...]
    unreached: tuple[str, ...] = ()
    """Modules with parameters that no input reaches: what may feed them stays."""
    diagnosis: Diagnosis | None = field(default=None, metadata=OPTIONAL)
    """With --data: is it stalled, and what would an extension gain?"""
    metadata: Mapping[str, object] | None
    """What the checkpoint says of itself."""


THESE_WEIGHTS, TRAINED_ON = "these weights", "trained on since the removal"
"""What a certificate may say of the weights that it is found with."""


@dataclass(frozen=True, kw_only=True)
class VerifyResult(Result):
    """The result of `extcon verify`."""

    command: Literal["verify"] = "verify"
    checkpoint: str
    other: str
    max_diff: float
    verdict: bool
    """Every difference is within `max_diff` of the largest output."""
    differences: Mapping[str, OutputDifference | None]
    """On random inputs in float32 and float64 (None: one does not run in it), and on real inputs where asked for."""
    certificate: str | None
    """What the second's own certificate says of its weights; None: it carries none."""
    task: str = "classification"
    """What the models are for, as the first's recipe says."""


@dataclass(frozen=True)
class RecipeKey:
    """A key of the recipe, its value as YAML, and how that is known (or what to put there)."""

    key: str
    value: str
    why: str


@dataclass(frozen=True, kw_only=True)
class InitResult(Result):
    """The result of `extcon init`."""

    command: Literal["init"] = "init"
    checkpoint: str
    output: str
    findings: tuple[RecipeKey, ...]
    missing: tuple[RecipeKey, ...]
    """What only the user knows, with examples; empty where the recipe is complete."""


@dataclass(frozen=True, kw_only=True)
class Refused(Result):
    """In the place of a result where a gate has failed (exit code 4) before all was measured."""

    command: str
    checkpoint: str
    message: str


CommandResult: TypeAlias = (
    PruneResult
    | SweepResult
    | BypassResult
    | TrainResult
    | EvaluateResult
    | InspectResult
    | VerifyResult
    | ExportResult
    | CompareResult
    | Refused
)
COMMANDS: Mapping[str, type] = {
    "init": InitResult,
    "prune": PruneResult,
    "sweep": SweepResult,
    "bypass": BypassResult,
    "train": TrainResult,
    "evaluate": EvaluateResult,
    "inspect": InspectResult,
    "plan": PlanResult,
    "dry-run": DryRunResult,
    "verify": VerifyResult,
    "export": ExportResult,
    "compare": CompareResult,
}
"""The result of each command."""
