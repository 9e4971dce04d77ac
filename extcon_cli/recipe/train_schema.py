"""The sections `model`, `data` and `train` of a recipe. They are values; load.py reads files."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from extcon_cli.recipe.base import Decay, Decays, Duration, Floats, Section, Shape, Share, Shares

Task = Literal["classification", "regression"]


class ModelSpec(Section):
    """The architecture of the checkpoint. With no `arch` it is identified by names and shapes."""

    arch: str | None = Field(
        None,
        description="`torchvision:resnet18`, `zoo:digits_resnet`, `timm:...`, `transformers:...`, `file.py:factory` "
        "or `package.module:factory`. `file.py` stands beside the recipe. null: the checkpoint tells.",
    )
    kwargs: dict[str, JsonValue] = Field(
        default_factory=dict, description="Arguments of the architecture, such as `{num_classes: 10}`."
    )
    input_shape: Shape | None = Field(
        None,
        description="Shape of one input without the batch, such as [3, 32, 32]. null: checkpoint or data tell.",
    )

    @field_validator("arch")
    @classmethod
    def _has_two_parts(cls, arch: str | None) -> str | None:
        if arch is not None and not all(part.strip() for part in [*arch.rsplit(":", 1), ""][:2]):
            raise ValueError(
                f"should look like zoo:digits_resnet, torchvision:resnet18 or file.py:factory, not {arch!r}"
            )
        return arch


class AugmentSpec(Section):
    """Random changes of each training image."""

    crop_padding: int = Field(
        0, ge=0, description="Zero padding in pixels from which a random crop is cut. 0: none."
    )
    flip: bool = Field(False, description="Mirror every second image left to right, by chance.")


class NormalizeSpec(Section):
    """(x - mean) / std for each channel, on inputs scaled to 0..1."""

    mean: Floats = Field(description="Mean of each channel, in units of the scaled input.")
    std: Floats = Field(
        description="Standard deviation of each channel, in units of the scaled input; above 0."
    )

    @model_validator(mode="after")
    def _fits(self) -> NormalizeSpec:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"`mean` has {len(self.mean)} entries and `std` {len(self.std)}: one for each channel"
            )
        if min(self.std) <= 0:
            raise ValueError(f"every entry of `std` should be greater than 0, not {min(self.std):g}")
        return self


class DataSpec(Section):
    """What the model learns from and is measured on."""

    dataset: str = Field(
        min_length=1,
        description="`digits`, `eggholder`, a torchvision name such as `cifar10`, `image_folder`, `arrays` (.npz, "
        ".safetensors), `csv`, or `file.py:function`. `file.py` stands beside the recipe.",
    )
    root: str | None = Field(
        None, description="The data's folder or file; `~` is the home folder. null: not needed."
    )
    batch_size: PositiveInt = Field(128, description="Samples in a training step.")
    eval_batch_size: PositiveInt = Field(512, description="Samples in a batch where nothing is learnt.")
    validation: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the training data set aside to select on. It is never trained on.",
    )
    augment: AugmentSpec = Field(AugmentSpec(), description="Random changes of each training image.")
    normalize: NormalizeSpec | None = Field(
        None, description="Shift and scale of each channel. null: as the checkpoint says, else none."
    )
    workers: int = Field(2, ge=0, description="Processes that load data which do not fit in memory.")
    download: bool = Field(False, description="Fetch a torchvision dataset that is not under `root` yet.")
    limit: PositiveInt | None = Field(
        None, description="Use the first so many training samples only, for quick trials. null: all."
    )


class OptimizerSpec(Section):
    """Which optimizer moves the parameters, and how far."""

    rates: ClassVar[dict[str, float]] = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}

    name: Literal["sgd", "adam", "adamw"] = Field("sgd", description="The optimizer.")
    lr: PositiveFloat = Field(
        0.1,
        description="Learning rate at the top of the schedule. The default is for sgd; adam, adamw: a hundredth.",
    )
    momentum: Decay = Field(0.9, description="Share of the last step that is kept (sgd).")
    nesterov: bool = Field(False, description="Nesterov's form of the momentum (sgd).")
    weight_decay: NonNegativeFloat = Field(
        0.0,
        description="Pull towards zero: weight_decay * w in the gradient (sgd, adam), or decoupled (adamw).",
    )
    betas: Decays = Field(
        (0.9, 0.999), description="Decay of the first and of the second moment, a step (adam, adamw)."
    )
    eps: PositiveFloat = Field(1e-8, description="Added to the root of the second moment (adam, adamw).")

    @model_validator(mode="before")
    @classmethod
    def _default_rate(cls, given: Any) -> Any:
        """Give the rate that fits the optimizer where the user names no rate."""
        if isinstance(given, dict) and "lr" not in given:
            name = given.get("name", "sgd")
            return {**given, "lr": cls.rates[name if isinstance(name, str) and name in cls.rates else "sgd"]}
        return given

    @model_validator(mode="after")
    def _nesterov_moves(self) -> OptimizerSpec:
        if self.nesterov and not self.momentum:
            raise ValueError("`nesterov` needs a `momentum` greater than 0")
        return self


class ScheduleSpec(Section):
    """How the learning rate changes over the run."""

    name: Literal["cosine", "step", "constant"] = Field(
        "cosine",
        description="Half a cosine down to `final`, a drop by `gamma` at each milestone, or no change.",
    )
    warmup: int = Field(
        0, ge=0, description="Steps over which the learning rate rises to its top in a straight line."
    )
    milestones: Shares = Field(
        (0.5, 0.75), description="Where the rate drops, as shares of the run in rising order (step)."
    )
    gamma: float = Field(0.1, gt=0, le=1, description="Factor of each drop (step).")
    final: Share = Field(0.0, description="Share of the learning rate that is left at the end (cosine).")

    @model_validator(mode="after")
    def _rises(self) -> ScheduleSpec:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"`milestones` should rise, not be {list(self.milestones)}")
        return self


class DistillSpec(Section):
    """Learning from the outputs of the original model beside the labels."""

    weight: Share = Field(
        0.5, description="Share of the distillation term in the loss; the labels have the rest."
    )
    temperature: PositiveFloat = Field(
        4.0, description="Both models' logits are divided by it before the softmax (classification)."
    )


class TrainSpec(Duration):
    """One training phase: how long, with which steps, and what is kept."""

    optimizer: OptimizerSpec = Field(OptimizerSpec(), description="What moves the parameters.")
    schedule: ScheduleSpec = Field(ScheduleSpec(), description="The learning rate over the run.")
    clip_grad: PositiveFloat | None = Field(
        None,
        description="Largest L2 norm of the whole gradient; a longer one is shortened to it. null: no limit.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each label spread over all classes (classification)."
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = Field(
        "no", description="Number format of the forward pass; parameters stay fp32."
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="Which state is the result: best on the validation data (where there are any), or last.",
    )
    evaluate_every: PositiveInt = Field(1, description="Epochs between two looks at the validation data.")
    distill: DistillSpec | None = Field(None, description="Learn from the original model as well. null: off.")
