"""The recipe: one frozen value that says all of a run. Every key carries its default, unit and meaning.

The descriptions are what `extcon recipe schema` and docs/recipe.md print. load.py reads files.
"""

from __future__ import annotations

from pydantic import Field

from extcon_cli.recipe.base import Duration, Section
from extcon_cli.recipe.prune_schema import (
    BifurcateSpec,
    CompensateSpec,
    DecideSpec,
    FinetuneSpec,
    PruneSpec,
    ScoreSpec,
)
from extcon_cli.recipe.train_schema import (
    AugmentSpec,
    DataSpec,
    DistillSpec,
    ModelSpec,
    NormalizeSpec,
    OptimizerSpec,
    ScheduleSpec,
    Task,
    TrainSpec,
)

__all__ = [
    "AugmentSpec",
    "BifurcateSpec",
    "CompensateSpec",
    "DataSpec",
    "DecideSpec",
    "DistillSpec",
    "Duration",
    "FinetuneSpec",
    "ModelSpec",
    "NormalizeSpec",
    "OptimizerSpec",
    "PruneSpec",
    "Recipe",
    "ScheduleSpec",
    "ScoreSpec",
    "Section",
    "Task",
    "TrainSpec",
]


class Recipe(Section):
    """What a run does."""

    model: ModelSpec = Field(ModelSpec(), description="The architecture of the checkpoint.")
    data: DataSpec | None = Field(
        None, description="What the model learns from and is measured on. null: none is known."
    )
    task: Task = Field(
        "classification",
        description="`classification`: cross entropy, accuracy. `regression`: mean squared error, R2.",
    )
    train: TrainSpec = Field(TrainSpec(), description="`extcon train`: training.")
    prune: PruneSpec = Field(PruneSpec(), description="`extcon prune`: from a model to a smaller one.")
    seed: int = Field(
        0, ge=0, lt=2**32, description="Where all random numbers of the run start: same seed, same result."
    )
