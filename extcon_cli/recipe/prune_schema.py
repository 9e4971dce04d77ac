"""The section `prune` of a recipe: score, decide, bifurcate, remove, fine-tune (docs/method/catalyst.md).

F_i: the gamma and beta of a channel's batch norm, else its row and bias. d_i: its auxiliary variable.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
    field_validator,
    model_validator,
)

from extcon_cli.recipe.base import Duration, Name, Names, Section, ShareAboveZero, ShareBelowOne, ShareInside
from extcon_cli.recipe.durations import DURATION
from extcon_cli.recipe.sizes import SIZE
from extcon_cli.recipe.train_schema import DistillSpec, OptimizerSpec, ScheduleSpec, TrainSpec


class ScoreSpec(Section):
    """What each channel is worth."""

    method: Literal["energy", "compensated", "race", "taylor", "magnitude", "random", "group_lasso"] = "compensated"
    """`compensated`: the loss that is left once the others are refitted to stand in for the channel, one channel after
    the other. `energy`: the sum over batches of (F_i . dL/dF_i)^2. `taylor`: the sum of |F_i . dL/dF_i|.
    `magnitude`: ||F_i||. `random`: chance. `race`: the paper's, by training with sum |d_i| ||F_i||.
    `group_lasso`: ||F_i|| after training with sum ||F_i||."""

    batches: PositiveInt = 100
    """Training batches that the score is summed over, weights frozen (energy, taylor)."""

    images: PositiveInt = 512
    """Training samples that it is measured on, weights frozen (compensated)."""

    compare: Literal["shares", "losses"] | None = None
    """What tells layers apart (compensated): `losses`: what is left of the loss. `shares`: the square of its share in
    what all of the layer costs. null: losses for language models (causal_lm, masked_lm), else shares."""

    batch_size: PositiveInt | None = None
    """Samples in such a batch. null: `data.batch_size`."""

    steps: PositiveInt = 200
    """Training steps with the regulariser, made by `bifurcate.optimizer` (race, group_lasso)."""

    strength: PositiveFloat = 0.1
    """Weight lambda of the regulariser in the loss (race, group_lasso)."""

    c: PositiveFloat = 1.0
    """Start of each |d_i| as a multiple of ||F_i|| (race)."""


class LayerSpec(Section):
    """What holds for the groups whose names match a pattern. The first entry that matches counts."""

    match: Name
    """Name pattern of groups, such as "layer4.*"."""

    keep: bool = False
    """Nothing of them goes."""

    ratio: ShareInside | None = None
    """Exactly this share of their channels goes, whatever they are worth. null: as many as pay."""

    floor: ShareBelowOne | None = None
    """Share of their channels that always stays. null: `prune.decide.floor`."""

    least: PositiveInt = 1
    """Channels that stay at least."""


class DecideSpec(Section):
    """Which channels go: the smallest scores first until the ratio is met, or the least score for the target."""

    normalize: bool | None = None
    """Divide each score by the mean of its group before comparing across groups. null: for a ratio yes; for a target
    not where scores are losses (energy, taylor), which tell groups apart; `compensated`, shares already, never."""

    floor: ShareBelowOne = 0.1
    """Share of the channels of each group that always stays; one channel at the least."""

    keep: Names = ()
    """Name patterns of groups that are never pruned, such as ["layer1.*"]."""

    layers: Annotated[tuple[LayerSpec, ...], Strict(False)] = ()
    """Limits of some groups, such as [{match: "layer4.*", ratio: 0.3}]."""

    round_to: PositiveInt | Literal["auto"] | None = None
    """Widths that change become multiples of this; 8 suits many devices. `auto`: what layers measured in
    `prune.latency.runtime` say. null: `auto` for a target of latency, else 1."""


class TargetSpec(Section):
    """The budget of the smaller model: the share, of what the model had, that may be left. Exactly one key."""

    macs: ShareInside | None = None
    """Share of the multiply-accumulates that may be left."""

    params: ShareInside | None = None
    """Share of the parameters that may be left."""

    size: float | str | None = None
    """Bytes of all parameters and buffers as stored, such as 10MB or 512KiB, or the share that may be left."""

    latency: float | str | None = None
    """Seconds of a batch that may be left, such as 4ms, or the share; where, says `prune.latency`."""

    @field_validator("latency", mode="before")
    @classmethod
    def _time_or_share(cls, given: Any) -> Any:
        shares = type(given) is float and 0 < given < 1
        if given is not None and not shares and not (isinstance(given, str) and re.fullmatch(DURATION, given)):
            raise ValueError(f"should be a time such as 4ms or 0.5s, or a share between 0 and 1, not {given!r}")
        return given

    @field_validator("size", mode="before")
    @classmethod
    def _bytes_or_share(cls, given: Any) -> Any:
        shares = type(given) is float and 0 < given < 1
        if given is not None and not shares and not (isinstance(given, str) and re.fullmatch(SIZE, given)):
            raise ValueError(f"should be bytes such as 10MB or 512KiB, or a share between 0 and 1, not {given!r}")
        return given

    @model_validator(mode="after")
    def _one_budget(self) -> TargetSpec:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give exactly one of `macs`, `params`, `size` and `latency`")
        return self


class LatencySpec(Section):
    """Where latency is measured. It takes the threads of the run, and its device with torch and torch.compile."""

    runtime: Literal["torch", "torch.compile", "onnxruntime", "openvino"] = "torch"
    """What runs the model: plain PyTorch, compiled PyTorch, or the exported file (extras `onnx`, `openvino`)."""

    batch_size: PositiveInt | None = None
    """Samples in a batch. null: one, and with torch 64 as well."""

    seconds: PositiveFloat = 0.4
    """How long two models are compared for one batch size, about: of what counts, and ten times as long at the most."""

    layer_seconds: PositiveFloat = 120.0
    """After so long no further layer is timed for a target of latency: its time is estimated by its MACs."""


class BifurcateOptimizer(OptimizerSpec):
    """Which optimizer moves the parameters while the decided channels shrink."""

    rates: ClassVar[dict[str, float]] = {"sgd": 0.01, "adam": 1e-4, "adamw": 1e-4}

    lr: PositiveFloat = 0.01
    """Learning rate at the top of the schedule. The default is that of sgd; adam, adamw: a hundredth."""


class BifurcateSchedule(ScheduleSpec):
    """How the learning rate changes while the decided channels shrink."""

    name: Literal["cosine", "step", "constant"] = "constant"
    """Half a cosine down to `final`, a drop by `gamma` at each milestone, or no change."""


class BifurcateSpec(Duration):
    """How the decided channels reach zero while the others train on and take over."""

    method: Literal["flow", "proximal", "penalty", "none"] = "none"
    """`none`: set to zero at once, without training; the rest of the section does not count. `flow`: along the
    gradient flow of |d| ||F||, exactly zero on time. `proximal`: its proximal step after each optimizer step.
    `penalty`: its subgradient in the loss."""

    epochs: PositiveFloat | None = 5.0
    """Length in passes over the training data; fractions are allowed. Or give `steps`. No time with `none`."""

    optimizer: BifurcateOptimizer = BifurcateOptimizer()
    """What moves the parameters."""

    schedule: BifurcateSchedule = BifurcateSchedule()
    """The learning rate over the phase."""

    clip_grad: PositiveFloat | None = 1.0
    """Largest L2 norm of the whole gradient; a longer one is shortened to it. null: no limit."""

    chi: Annotated[float, Field(gt=1)] = 1.25
    """Start of |d| as a multiple of ||F|| for the decided channels."""

    shrink: ShareAboveZero = 0.5
    """Share of the phase after which the decided channels are zero (flow)."""

    strength: PositiveFloat = 1.0
    """Weight lambda of |d| ||F||: each step takes lr * lambda * |d| off a norm (proximal, penalty)."""

    epsilon: NonNegativeFloat = 0.01
    """Norm ||F|| below which a channel counts as dead and is set to zero (penalty)."""

    distill: DistillSpec | None = DistillSpec()
    """Learn from the original model as well. null: no."""


class CompensateSpec(Section):
    """Least squares: the channels that stay stand in for those that go."""

    enabled: bool = True
    """Whether to do it."""

    hand_over: Literal["sequential", "local"] = "sequential"
    """`sequential`: once the channels are zero, front to back, every linear map behind them so that what follows it
    is as in the original model, and batch norms with it. `local`: each map that reads them by itself, in proportion
    as they shrink."""

    images: PositiveInt = 512
    """Training samples that it is fitted on. `sequential` runs them as one batch, and takes fewer of large ones."""

    ridge: PositiveFloat = 1e-2
    """Pull towards the old weights, as a share of the mean square, or variance, of what a map reads."""


class FinetuneOptimizer(OptimizerSpec):
    """Which optimizer moves the parameters of the smaller model."""

    rates: ClassVar[dict[str, float]] = {"sgd": 0.01, "adam": 1e-4, "adamw": 1e-4}

    lr: PositiveFloat = 0.01
    """Learning rate at the top of the schedule. The default is that of sgd; adam, adamw: a hundredth."""


class FinetuneSchedule(ScheduleSpec):
    """How the learning rate changes while the smaller model is fine-tuned."""

    warmup: NonNegativeInt = 20
    """Steps over which the learning rate rises in a straight line at the start."""


class FinetuneDistill(DistillSpec):
    """Learning from the outputs of the original model beside the labels."""

    temperature: PositiveFloat = 8.0
    """What both models' logits are divided by before the softmax. Higher than in `train`: the smaller model is to be as
    the original in more than its answers."""


class FinetuneSpec(TrainSpec):
    """Training of the smaller model: as `train`, but by default shorter, gentler, and with distillation."""

    epochs: PositiveFloat | None = 10.0
    """Length in passes over the training data; fractions are allowed. Or give `steps`."""

    steps: NonNegativeInt | None = None
    """Length in optimizer steps; 0: the smaller model is not trained. Or give `epochs`."""

    optimizer: FinetuneOptimizer = FinetuneOptimizer()
    """What moves the parameters."""

    schedule: FinetuneSchedule = FinetuneSchedule()
    """The learning rate over the phase."""

    distill: FinetuneDistill | None = FinetuneDistill()
    """Learn from the original model as well. null: no."""


class PruneSpec(Section):
    """From a model to a smaller one, in five steps."""

    ratio: ShareInside | None = 0.5
    """Share of the prunable channels that goes; between 0 and 1. Or give `target`."""

    target: TargetSpec | None = None
    """What the smaller model may cost. Or give `ratio`."""

    widths: Literal["uniform", "free"] = "uniform"
    """Of folders of Hugging Face: `uniform`: the same share of every layer, so that the configuration says it and plain
    `from_pretrained` opens the result. `free`: any width, and `extcon_cli.load` alone opens it. Of checkpoints of
    Ultralytics: `uniform`: widths that the YAML can say, which its trainer builds anew. `free`: any width; Ultralytics
    validates, predicts with and exports the result, and does not train it."""

    latency: LatencySpec = LatencySpec()
    """Where latency is measured."""

    data: Literal["given", "none"] = "given"
    """`given`: filters are scored, handed over and fine-tuned on the section `data`. `none`: scored and handed over on
    inputs made of the model itself, from batch norm's statistics or written by a causal language model; nothing is
    trained or measured."""

    score: ScoreSpec = ScoreSpec()
    """What each channel is worth."""

    decide: DecideSpec = DecideSpec()
    """Which channels go."""

    bifurcate: BifurcateSpec = BifurcateSpec()
    """How they reach zero."""

    compensate: CompensateSpec = CompensateSpec()
    """Least-squares refit of what reads the removed channels."""

    finetune: FinetuneSpec = FinetuneSpec()
    """Training of the smaller model."""

    @model_validator(mode="before")
    @classmethod
    def _target_replaces_the_default(cls, given: Any) -> Any:
        if isinstance(given, dict) and "ratio" not in given and given.get("target") is not None:
            return {**given, "ratio": None}
        return given

    @model_validator(mode="after")
    def _one_aim(self) -> PruneSpec:
        if (self.ratio is None) == (self.target is None):
            raise ValueError(f"give `ratio` or `target`, not {'neither' if self.ratio is None else 'both'}")
        return self
