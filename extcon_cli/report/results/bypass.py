"""The result of `extcon bypass`: the diagnosis, and what became of every strategy. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from extcon_cli.report.results.records import LayerWidth, ModelStats, PhaseRecord, Record, Result, RunFacts
from extcon_cli.report.serialise import INLINE, OPTIONAL, key

NO_GAIN = "no gain expected"
"""The verdict of a bypass that its probe has stopped."""


@dataclass(frozen=True)
class Branch:
    """A strategy in one of the cycles. Results and reports name it "diag", and "diag 2" in the second cycle."""

    strategy: str
    cycle: int = 1

    def __str__(self) -> str:
        return self.strategy if self.cycle <= 1 else f"{self.strategy} {self.cycle}"


THETA = Branch("theta*", 0)
"""Where the first cycle begins."""


@dataclass(frozen=True)
class LossSlope:
    """How the training loss falls at theta*, going on as before."""

    relative: float  # share of the loss that 1000 steps take away
    t: float  # above 2: it falls, beyond its noise


@dataclass(frozen=True)
class DeadUnits:
    """Units of one activation, or of one channel group."""

    dead: int
    nearly: int
    units: int


@dataclass(frozen=True)
class GradientNorm:
    """The gradient of the training loss at theta*."""

    norm: float
    of_weights: float  # as a share of the norm of the weights


@dataclass(frozen=True)
class ProbeGain:
    """What a strategy gains over going on, in the miniature run."""

    loss: float  # on the validation data
    gain: float  # as a share of the loss of going on
    error: float  # its standard error


@dataclass(frozen=True)
class Depth:
    """How far signal and gradient reach through the hidden square layers of a plain stack."""

    layers: int
    signal: float
    """Of what the last one gives: the part that differs between samples, as a share of its size."""
    gradient: float
    """Norm of the gradient of the first one's weights, as a share of the largest."""
    signals: tuple[float, ...] = ()
    """Of each layer, as `signal`."""
    gradients: tuple[float, ...] = ()
    """Of each layer, as `gradient`."""


@dataclass(frozen=True)
class Features:
    """The features that the last map reads: how many directions they use, of how many."""

    effective: float
    width: int


@dataclass(frozen=True)
class Fit:
    """How well theta* fits what it was trained on, and what it was not."""

    training: float
    """Mean loss of training samples, as they are evaluated."""
    validation: float
    shuffled: float | None = None
    """Mean validation loss against the targets of other samples. None: outputs and targets are no tensors."""
    informed: float | None = None
    """By how many standard errors the true targets have less loss than others', at theta* or where the probe ended."""


PlateauKind = Literal[
    "dead units",
    "dying stack",
    "data at fault",
    "overfitting",
    "rate too high",
    "capacity-bound",
    "finished schedule",
    "still learning",
    "plateau",
]


@dataclass(frozen=True)
class Sign:
    """One row of a diagnosis in plain words."""

    sign: str
    found: str
    says: str


@dataclass(frozen=True)
class Diagnosis:
    """Is the model stalled, and what would an extension gain?"""

    slope: LossSlope
    stalled: bool
    dead: Mapping[str, DeadUnits]
    gradient: GradientNorm
    probe: Mapping[str, ProbeGain]
    refused: Mapping[str, str]
    """Why an extension of this model cannot be made."""
    probed: str
    """The extension that gained most; `baseline`: none could be probed."""
    gain: float
    gain_error: float
    predicted: bool
    """Is a gain of an extension expected?"""
    excluded: tuple[str, ...] = field(metadata=key("behind"))
    """Extensions that the best leaves behind by more than their errors."""
    temperature: float | None = None
    """That calibrates theta* on the validation data; above 1: it is too sure. None: the outputs are no logits."""
    depth: Depth | None = None
    """None: the model has no deep stack without skips."""
    drift: ProbeGain | None = None
    """What going on in the probe gains over theta* itself."""
    learnt: ProbeGain | None = None
    """The same on training samples, as they are evaluated."""
    lowered: ProbeGain | None = None
    """What a lowered rate gains over theta*."""
    averaged: ProbeGain | None = None
    """What the mean of the last weights of going on gains over theta*."""
    fit: Fit | None = None
    """None: it was not measured."""
    read_out: ProbeGain | None = None
    """What a linear read-out of random features of the inputs, beside the model, gains over theta*. None: it was not
    asked, or not possible."""
    features: Features | None = None
    """None: no map was found."""
    kind: PlateauKind = "plateau"
    """What holds the model back, by these figures."""
    remedies: tuple[str, ...] = ()
    """What is worth a whole run, most promising first."""
    mostly_dead: bool = False
    """At least half of the units are dead: that outweighs the slope, and a probe that is not sure."""
    signs: tuple[Sign, ...] = ()
    """All of this as a small table."""
    verdict: str = ""
    """All of this in one sentence."""


@dataclass(frozen=True)
class BranchCertificate:
    """What was measured where a strategy changed the model: by how much outputs moved, as shares of the largest."""

    contracted: bool | None = field(default=None, metadata=OPTIONAL)
    reason: str | None = field(default=None, metadata=OPTIONAL)
    """Why there is no model."""
    added: Mapping[str, int] | None = field(default=None, metadata=OPTIONAL)
    """New units of each layer."""
    revived: Mapping[str, int] | None = field(default=None, metadata=OPTIONAL)
    steps_to_contract: int | None = field(default=None, metadata=OPTIONAL)
    embed_difference: float | None = field(default=None, metadata=OPTIONAL)
    mirror_difference: float | None = field(default=None, metadata=OPTIONAL)
    projection_difference: float | None = field(default=None, metadata=OPTIONAL)
    preserves: bool | None = field(default=None, metadata=OPTIONAL)
    """False: it keeps no output (restarts, identity)."""
    redrawn: int | None = field(default=None, metadata=OPTIONAL)
    """Layers that began anew near the identity."""
    averaged: int | None = field(default=None, metadata=OPTIONAL)
    """States whose weights were averaged."""
    averaging_difference: float | None = field(default=None, metadata=OPTIONAL)
    """Between the mean and the last state."""
    difference_after_contraction: float | None = field(default=None, metadata=OPTIONAL)
    restarts: int | None = field(default=None, metadata=OPTIONAL)
    """How often its loss was not finite; None: never."""


@dataclass(frozen=True)
class CalibratedLoss:
    """The validation loss once the logits have been divided by one temperature, fitted on the validation data."""

    loss: float
    temperature: float


@dataclass(frozen=True)
class BranchRecord:
    """A branch that has ended."""

    branch: Branch
    loss: float | None
    """On the validation data. None: it gave no model."""
    history: PhaseRecord
    certificate: BranchCertificate | None
    """None: nothing was extended."""
    calibrated: CalibratedLoss | None = None
    """None: it gave no model, or its outputs are no logits."""


@dataclass(frozen=True)
class BypassHistory:
    """How every strategy went."""

    phases: tuple[PhaseRecord, ...]


@dataclass(frozen=True, kw_only=True)
class BypassRecord(Record):
    """What a bypass leaves in the history of its checkpoint."""

    command: Literal["bypass"] = "bypass"
    before: ModelStats
    after: ModelStats
    verdict: str
    """The branch that is the best on the validation data: of those whose loss is not above that of theta*, the one with
    the least calibrated loss (the least loss, where there is none)."""
    validation: Mapping[str, float]
    """Validation loss of theta* and of every branch."""
    calibrated: Mapping[str, CalibratedLoss] | None = field(default=None, metadata=OPTIONAL)
    """The same after calibration; None: the outputs are no logits."""
    diagnosis: Diagnosis
    certificate: Mapping[str, BranchCertificate]


@dataclass(frozen=True, kw_only=True)
class BypassResult(BypassRecord, Result):
    """The result of `extcon bypass`."""

    run: RunFacts = field(metadata=INLINE)
    layers: tuple[LayerWidth, ...]
    history: BypassHistory | None = field(default=None, metadata=OPTIONAL)
    """Left out by --json."""
