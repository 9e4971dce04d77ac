"""The section `prune` of a recipe: score, decide, bifurcate, remove, fine-tune (DESIGN.md, section 3)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from extcon_cli.recipe.base import Duration, Names, Section, ShareInside
from extcon_cli.recipe.train_schema import DistillSpec, OptimizerSpec, ScheduleSpec, TrainSpec


class ScoreSpec(Section):
    """How much each channel group F_i matters to the loss."""

    method: Literal["energy", "race", "taylor", "magnitude", "random", "group_lasso"] = Field(
        "energy",
        description="`energy`: sum over batches of (F_i . dL/dF_i)^2, weights frozen. `taylor`: of |F_i . dL/dF_i|. "
        "`magnitude`: ||F_i||. `random`: by chance. `race`: the paper's ||F_i|| / |d_i| after steps with lambda "
        "|d_i| ||F_i||. `group_lasso`: ||F_i|| after steps with lambda ||F_i||.",
    )
    batches: PositiveInt = Field(
        100, description="Training batches that the score is summed over (energy, taylor)."
    )
    batch_size: PositiveInt | None = Field(
        None, description="Samples in such a batch. null: `data.batch_size`."
    )
    steps: PositiveInt = Field(
        200, description="Training steps with the regulariser, at `bifurcate.optimizer` (race, group_lasso)."
    )
    strength: PositiveFloat = Field(
        0.1, description="Weight lambda of the regulariser in the loss (race, group_lasso)."
    )
    c: PositiveFloat = Field(1.0, description="Start of each |d_i| as a multiple of ||F_i|| (race).")


class DecideSpec(Section):
    """Which groups go: the smallest scores first, until the ratio is met."""

    normalize: bool = Field(
        True, description="Divide each score by the mean of its layer's group before comparing."
    )
    floor: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the channels of each group that always stays; one channel at the least.",
    )
    keep: Names = Field(
        (), description='Name patterns of layers that are never pruned, such as ["layer1.*"].'
    )


class BifurcateOptimizer(OptimizerSpec):
    """Which optimizer moves the parameters while the decided channels shrink."""

    rates: ClassVar[dict[str, float]] = {"sgd": 0.02, "adam": 2e-4, "adamw": 2e-4}

    lr: PositiveFloat = Field(
        0.02,
        description="Learning rate at the top of the schedule. The default is for sgd; adam, adamw: a hundredth.",
    )


class BifurcateSchedule(ScheduleSpec):
    """How the learning rate changes while the decided channels shrink."""

    name: Literal["cosine", "step", "constant"] = Field(
        "constant",
        description="Half a cosine down to `final`, a drop by `gamma` at each milestone, or no change.",
    )


class BifurcateSpec(Duration):
    """How the decided channels reach zero while the rest trains on to take over."""

    method: Literal["flow", "proximal", "penalty", "none"] = Field(
        "flow",
        description="`flow`: along the gradient flow of |d| ||F||, exactly zero on time. `proximal`: its proximal step after "
        "each step. `penalty`: its subgradient in the loss. `none`: set to zero at once.",
    )
    epochs: PositiveFloat | None = Field(
        5.0, description="Length in passes over the training data; fractions are allowed. Or give `steps`."
    )
    optimizer: BifurcateOptimizer = Field(BifurcateOptimizer(), description="What moves the parameters.")
    schedule: BifurcateSchedule = Field(BifurcateSchedule(), description="The learning rate over the phase.")
    clip_grad: PositiveFloat | None = Field(
        1.0,
        description="Largest L2 norm of the whole gradient; a longer one is shortened to it. null: no limit.",
    )
    chi: float = Field(
        1.25, gt=1, description="Start of |d| as a multiple of ||F|| for the decided channels."
    )
    shrink: float = Field(
        0.5, gt=0, le=1, description="Share of the phase after which the decided channels are zero (flow)."
    )
    strength: PositiveFloat = Field(
        1.0,
        description="Weight lambda of |d| ||F||: a step takes lr * lambda * |d| off a norm (proximal, penalty).",
    )
    epsilon: NonNegativeFloat = Field(
        0.01, description="A channel counts as dead below this norm ||F||, and is then set to zero (penalty)."
    )
    distill: DistillSpec | None = Field(None, description="Learn from the original model as well. null: off.")


class CompensateSpec(Section):
    """Refit of each next layer by least squares: the channels that stay stand in for the removed ones."""

    enabled: bool = Field(False, description="Do it, and report its effect.")
    images: PositiveInt = Field(
        512, description="Training samples that the inputs' Gram matrix is summed over."
    )
    ridge: PositiveFloat = Field(
        1e-3,
        description="Pull towards the old weights, as a share of the mean of the Gram matrix's diagonal.",
    )


class FinetuneOptimizer(OptimizerSpec):
    """Which optimizer moves the parameters of the smaller model."""

    rates: ClassVar[dict[str, float]] = {"sgd": 0.05, "adam": 5e-4, "adamw": 5e-4}

    lr: PositiveFloat = Field(
        0.05,
        description="Learning rate at the top of the schedule. The default is for sgd; adam, adamw: a hundredth.",
    )


class FinetuneSchedule(ScheduleSpec):
    """How the learning rate changes while the smaller model is fine-tuned."""

    warmup: int = Field(
        20, ge=0, description="Steps over which the learning rate rises to its top in a straight line."
    )


class FinetuneSpec(TrainSpec):
    """Training of the smaller model: as `train`, but by default shorter, gentler, with distillation."""

    epochs: PositiveFloat | None = Field(
        10.0, description="Length in passes over the training data; fractions are allowed. Or give `steps`."
    )
    optimizer: FinetuneOptimizer = Field(FinetuneOptimizer(), description="What moves the parameters.")
    schedule: FinetuneSchedule = Field(FinetuneSchedule(), description="The learning rate over the phase.")
    distill: DistillSpec | None = Field(
        DistillSpec(), description="Learn from the original model as well. null: off."
    )


class PruneSpec(Section):
    """From a model to a smaller one, in five steps."""

    ratio: ShareInside = Field(0.5, description="Share of the prunable channels that goes; between 0 and 1.")
    score: ScoreSpec = Field(ScoreSpec(), description="What each channel is worth.")
    decide: DecideSpec = Field(DecideSpec(), description="Which channels go.")
    bifurcate: BifurcateSpec = Field(BifurcateSpec(), description="How they reach zero.")
    compensate: CompensateSpec = Field(
        CompensateSpec(), description="Least-squares refit of what reads the removed channels."
    )
    finetune: FinetuneSpec = Field(FinetuneSpec(), description="Training of the smaller model.")
