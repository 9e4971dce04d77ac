"""The recipe: one frozen value that says all of a run. Each key's meaning stands below it.

`extcon recipe schema` and docs/reference/recipe.md print them. This module reads no file; load.py does.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from extcon_cli.recipe.base import Duration, Section
from extcon_cli.recipe.bypass_schema import BypassSpec, Opt1Spec, Opt2Spec, ProbeSpec
from extcon_cli.recipe.data_schema import AugmentSpec, DataSpec, NormalizeSpec, ResizeSpec
from extcon_cli.recipe.prune_schema import (
    BifurcateSpec,
    CompensateSpec,
    DecideSpec,
    FinetuneSpec,
    LatencySpec,
    LayerSpec,
    PruneSpec,
    ScoreSpec,
    TargetSpec,
)
from extcon_cli.recipe.train_schema import (
    DistillSpec,
    ModelSpec,
    OptimizerSpec,
    ScheduleSpec,
    SpeedSpec,
    Task,
    TrainingSpec,
    TrainSpec,
)

__all__ = [
    "AugmentSpec",
    "BifurcateSpec",
    "BypassSpec",
    "CompensateSpec",
    "DataSpec",
    "DecideSpec",
    "DistillSpec",
    "Duration",
    "FinetuneSpec",
    "LatencySpec",
    "LayerSpec",
    "ModelSpec",
    "NormalizeSpec",
    "Opt1Spec",
    "Opt2Spec",
    "OptimizerSpec",
    "ProbeSpec",
    "PruneSpec",
    "Recipe",
    "ResizeSpec",
    "ScheduleSpec",
    "ScoreSpec",
    "Section",
    "SpeedSpec",
    "TargetSpec",
    "Task",
    "TrainSpec",
    "TrainingSpec",
]


class Recipe(Section):
    """What a run does."""

    model: ModelSpec = ModelSpec()
    """The architecture of the checkpoint."""

    data: DataSpec | None = None
    """What the model learns from and is measured on. null: none is known."""

    task: Task = "classification"
    """`classification`: cross entropy, accuracy. `multi_label`: binary cross entropy, F1. `regression`: mean squared
    error, R2. `segmentation`: cross entropy of pixels, mIoU. `detection`: a torchvision detector's losses, mAP.
    `causal_lm`, `masked_lm`: cross entropy of tokens, perplexity. Or `file.py:MyTask`; it stands beside the recipe."""

    train: TrainingSpec = TrainingSpec()
    """What `extcon train` does."""

    prune: PruneSpec = PruneSpec()
    """What `extcon prune` does."""

    bypass: BypassSpec = BypassSpec()
    """What `extcon bypass` does."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Where all random numbers of the run start: the same seed, the same result."""
