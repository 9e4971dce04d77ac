"""The sections `model` and `train` of a recipe. They are values; load.py reads files."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from extcon_cli.recipe.base import (
    Decays,
    Duration,
    Section,
    Shape,
    Share,
    ShareAboveZero,
    ShareBelowOne,
    SharesInside,
)
from extcon_cli.recipe.inputs import InputKinds

TASKS = ("classification", "multi_label", "regression", "segmentation", "detection", "causal_lm", "masked_lm")
"""The built-in tasks; extcon_cli.tasks holds them."""


def _known(task: str) -> str:
    file, _, name = task.rpartition(":")
    if task not in TASKS and not (file.endswith(".py") and name):
        expected = ", ".join(map(repr, TASKS)) + " or 'file.py:MyTask'"
        raise PydanticCustomError("literal_error", "should be {expected}", {"expected": expected})
    return task


Task = Annotated[
    str,
    AfterValidator(_known),
    WithJsonSchema({"anyOf": [{"enum": [*TASKS]}, {"type": "string", "pattern": r"^.+\.py:.+$"}]}),
]
"""The name of a task."""


class ModelSpec(Section):
    """The architecture of the checkpoint. With no `arch` it is identified by names and shapes."""

    arch: str | None = None
    """`torchvision:resnet18`, `zoo:digits_resnet`, `timm:...`, `transformers:...`, `file.py:factory` or
    `package.module:factory`. A `file.py` stands beside the recipe. null: the checkpoint tells."""

    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the architecture, such as {num_classes: 10}."""

    input_shape: Shape | None = None
    """Shape of one input without the batch, such as [3, 32, 32]. null: the checkpoint or the data tell."""

    inputs: InputKinds | None = None
    """Inputs other than one tensor of floats, by the names of the arguments (0, 1... by position), each without the
    batch: {input_ids: "int64[128] 0..255"}. null: `input_shape`, the checkpoint or the data tell."""

    examples: list[Shape] = Field(default_factory=list)
    """Shapes of more inputs, each without the batch: resolutions at which other parts of the model run."""

    ignore_unreached: bool = False
    """Let channels go that parameters which no input reaches may read. By default they stay: in another method, or for
    another task, the smaller model would break."""

    @field_validator("arch")
    @classmethod
    def _names_where_and_what(cls, arch: str | None) -> str | None:
        if arch is not None:
            place, _, what = arch.rpartition(":")
            if not place.strip() or not what.strip():
                raise ValueError(f"should look like zoo:digits_resnet or file.py:factory, not {arch!r}")
        return arch


class OptimizerSpec(Section):
    """Which optimizer moves the parameters, and how far."""

    rates: ClassVar[dict[str, float]] = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """The optimizer."""

    lr: PositiveFloat = 0.1
    """Learning rate at the top of the schedule. The default is that of sgd; adam, adamw: a hundredth."""

    momentum: ShareBelowOne = 0.9
    """Share of the last step that goes on (sgd)."""

    nesterov: bool = False
    """Nesterov's form of the momentum (sgd)."""

    weight_decay: NonNegativeFloat = 0.0
    """Pull towards zero: weight_decay * w in the gradient (sgd, adam), or apart from it (adamw)."""

    betas: Decays = (0.9, 0.999)
    """Decay of the first and of the second moment at each step (adam, adamw)."""

    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment (adam, adamw)."""

    @model_validator(mode="before")
    @classmethod
    def _rate_that_fits(cls, given: Any) -> Any:
        if isinstance(given, dict) and "lr" not in given:
            name = given.get("name")
            return {**given, "lr": cls.rates.get(name if isinstance(name, str) else "sgd", cls.rates["sgd"])}
        return given

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> OptimizerSpec:
        if self.nesterov and not self.momentum:
            raise ValueError("`nesterov` needs a `momentum` greater than 0")
        return self


class ScheduleSpec(Section):
    """How the learning rate changes over the phase."""

    name: Literal["cosine", "step", "constant"] = "cosine"
    """Half a cosine down to `final`, a drop by `gamma` at each milestone, or no change."""

    warmup: NonNegativeInt = 0
    """Steps over which the learning rate rises in a straight line at the start."""

    milestones: SharesInside = (0.5, 0.75)
    """Where the rate drops, as rising shares of the phase (step)."""

    gamma: ShareAboveZero = 0.1
    """Factor of each drop (step)."""

    final: Share = 0.0
    """Share of the learning rate that is left at the end (cosine)."""

    @model_validator(mode="after")
    def _milestones_rise(self) -> ScheduleSpec:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"`milestones` should rise, not be {list(self.milestones)}")
        return self


class DistillSpec(Section):
    """Learning from the outputs of the original model beside the labels."""

    weight: Share = 0.5
    """Share of the distillation term in the loss; the labels have the rest."""

    temperature: PositiveFloat = 4.0
    """What both models' logits are divided by before the softmax (classification)."""


class SpeedSpec(Section):
    """How a training step is computed. A choice by time may differ from machine to machine, and so may results."""

    mixed_precision: Literal["no", "fp16", "bf16", "auto"] = "no"
    """Number format of the forward pass; parameters stay fp32. `auto`: bf16 where a short measurement at the start says
    that it pays, else fp32; fp32 with `--deterministic`."""

    channels_last: bool | Literal["auto"] = False
    """Lay images out with their channels last, which changes the last bits. `auto`: where a short measurement at the
    start says that it pays; not with `--deterministic`."""

    compile: bool = False
    """Compile the forward pass of training with torch.compile: a while at the start, and on CPUs it needs a C++
    compiler."""


class TrainSpec(SpeedSpec, Duration):
    """One training phase: how long, with which steps, and what is kept."""

    optimizer: OptimizerSpec = OptimizerSpec()
    """What moves the parameters."""

    schedule: ScheduleSpec = ScheduleSpec()
    """The learning rate over the phase."""

    clip_grad: PositiveFloat | None = None
    """Largest L2 norm of the whole gradient; a longer one is shortened to it. null: no limit."""

    label_smoothing: ShareBelowOne = 0.0
    """Share of each label that is spread over all classes (classification)."""

    keep: Literal["best", "last"] = "best"
    """Which state is the result: the best on the validation data (where there are any), or the last."""

    evaluate_every: PositiveInt = 1
    """Epochs between two looks at the validation data."""

    average: ShareAboveZero | None = None
    """Share of the steps, the last, over which weights are averaged: every tenth state counts, and batch norm's
    statistics are measured anew. The mean is the result with `keep: last`, a candidate beside the best state with
    `keep: best`. null: no mean."""

    distill: DistillSpec | None = None
    """Learn from the original model as well. null: no."""

    shard: bool = False
    """Several processes: each keeps a part of weights, gradients and optimizer on its device, for models that fit one
    only while they are not trained. Not with `average` or fp16."""

    @model_validator(mode="after")
    def _shards_what_can_be(self) -> TrainSpec:
        if self.shard and (self.average is not None or self.mixed_precision == "fp16"):
            raise ValueError("`shard` goes with neither `average` nor `mixed_precision: fp16`")
        return self


class TrainingSpec(TrainSpec):
    """What `extcon train` does."""

    grow: Literal["depth"] | None = None
    """`depth`: the hidden square layers of a deep plain stack come in one by one over the first half of the steps, each
    as the identity, which changes no output. From new weights only. null: all layers are there from the start."""

    guides: SharesInside = ()
    """Simpler forms of the model that are trained first, each guided by the one before, then guide the model: rising
    shares of its channels and of its repeated blocks, such as [0.25, 0.5]. Each takes as many steps as the model. From
    new weights, in one process. []: none."""

    @model_validator(mode="after")
    def _guides_rise(self) -> TrainingSpec:
        if list(self.guides) != sorted(set(self.guides)):
            raise ValueError(f"`guides` should rise, not be {list(self.guides)}")
        if self.guides and (self.grow or self.distill):
            raise ValueError("`guides` go with neither `grow` nor `distill`: a model has one way to begin")
        if self.shard and self.grow:
            raise ValueError("`shard` does not go with `grow`")
        return self
