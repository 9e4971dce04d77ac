"""What several commands report: sizes, widths, phases, differences, certificates. Measures nothing.

No module of results imports torch, so that `extcon schema` is instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from extcon_cli import __version__
from extcon_cli.report.serialise import INLINE, OPTIONAL, key

SCHEMA = "extcon/1"
"""Version of the result documents of all commands."""

Metrics = Mapping[str, float]
"""Figures on data by name: loss, accuracy (0..1), top5, r2."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a command leaves in the history of the checkpoint that it writes: no times, so that bytes repeat."""

    command: str
    version: str = __version__


@dataclass(frozen=True)
class Gate:
    """A limit that was set to a result, and whether it is kept."""

    name: str
    passed: bool
    limit: float | None
    value: float | None
    """What was measured; None: nothing could be."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every result says first; each command fixes `command`."""

    schema: str = SCHEMA
    command: str
    version: str = __version__
    gates: tuple[Gate, ...] | None = field(default=None, metadata=OPTIONAL)
    """The limits that the user set. Where one has failed, the exit code is 4 and nothing was written."""


@dataclass(frozen=True)
class RunFacts:
    """What a run worked on, and with what."""

    checkpoint: str | None
    """None: from scratch."""
    output: str
    recipe: Mapping[str, object]
    """As resolved, with all that was filled in."""
    seed: int
    device: str
    threads: int
    """Of the CPU, at the end of the run."""
    seconds: Mapping[str, float]
    """Wall time of each phase, and `total`."""
    test_caution: str | None = None
    """Why the test figures say less than they seem to: the model may have been trained on these rows. None: nothing
    speaks against them."""
    processes: int = 1
    """That shared the run."""
    deterministic: bool = False
    """Were only algorithms used that give the same bits in every run?"""
    speed: Mapping[str, object] = field(default_factory=dict)
    """How training steps were computed: `precision`, `channels_last`, `compile`. Empty: there were none."""


@dataclass(frozen=True)
class Size:
    """What a model costs for one sample."""

    params: int
    macs: int  # multiply-accumulates, half of the FLOPs that torch counts
    bytes: int  # of all parameters and buffers, as stored


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, and between which two their middle half lies."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class LatencyFigures:
    """How long a forward pass of a batch takes before and after, measured in turns."""

    runtime: str  # with its version, "onnxruntime 1.20.0"
    device: str  # the name of the processor
    threads: int  # of the CPU
    batch_size: int
    before: Spread  # seconds
    after: Spread  # seconds
    ratio: Spread  # after / before, round by round


@dataclass(frozen=True)
class ModelStats:
    """A model at one moment: its figures on the test data and what it costs."""

    metrics: Metrics
    """Empty: there were no data."""
    size: Size = field(metadata=INLINE)
    latency: Mapping[str, float] | None = field(default=None, metadata=OPTIONAL)
    """Seconds of a forward pass by batch size, in the runtime asked for; None: not measured."""


@dataclass(frozen=True)
class Layer:
    """One module that holds parameters of its own."""

    name: str
    kind: str  # its class, "Conv2d"
    inputs: int | None = field(metadata=key("in"))  # channels or features read; None: the notion does not apply
    outputs: int | None = field(metadata=key("out"))
    params: int
    macs: int


@dataclass(frozen=True)
class LayerWidth:
    """Channels or features that a layer gives, before and after; None where the notion does not apply."""

    name: str
    kind: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class ValidationCurve:
    """Figures on the validation data after these steps."""

    steps: tuple[int, ...]
    metrics: Mapping[str, tuple[float, ...]] = field(metadata=INLINE)


@dataclass(frozen=True)
class PhaseRecord:
    """How a training phase went, at most a thousand points of it."""

    phase: str
    steps: tuple[int, ...]
    """Steps that are over at each point."""
    loss: tuple[float, ...]
    """Of the training batches since the point before."""
    accuracy: tuple[float | None, ...] | None = field(default=None, metadata=OPTIONAL)
    """On the validation data, as last measured; None: not yet."""
    r2: tuple[float | None, ...] | None = field(default=None, metadata=OPTIONAL)
    """The same of a regression."""
    validation: ValidationCurve | None = None
    trace: tuple[tuple[float, ...], ...] | None = field(default=None, metadata=OPTIONAL)
    """Of an extended model: step, ||D||, ||A D W||, distance, angle, step size."""


@dataclass(frozen=True)
class OutputDifference:
    """Outputs of two models beside each other, on the same inputs."""

    largest: float  # absolute difference, in the output that it is the largest share of
    scale: float  # largest absolute number of that output, of the first model
    agreement: float  # share of arg-max that are the same
    samples: int
    relative: float  # largest / scale, or the share of labels that moved, if larger
    outputs: int = 0  # tensors and numbers that a forward pass gives
    compared: int = 0  # finite numbers
    set_aside: int = 0  # that agree exactly and are no measure: NaN, infinite, masks
    labels: int = 0  # integers and booleans
    unequal: int = 0  # of them
    overall: float | None = None  # the largest difference of all outputs as a share of the largest scale of all


@dataclass(frozen=True)
class Tolerance:
    """Shares of the largest output that a removal may move an output by."""

    float32: float
    float64: float


@dataclass(frozen=True)
class Rewrite:
    """One change of a removal, with the rule that allowed it."""

    rule: str
    where: str
    channels: int


@dataclass(frozen=True)
class CertificateRecord:
    """What was measured at a removal, on what, and of exactly which weights."""

    exact: bool
    tolerance: Tolerance
    before: str  # sha256 of the weights
    after: str
    rewrites: tuple[Rewrite, ...]
    random: OutputDifference
    double: OutputDifference | None  # None: the model does not run in float64
    evaluation: OutputDifference | None  # real inputs
