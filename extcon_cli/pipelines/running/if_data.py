"""For commands that measure on data where there are any, and do without where there are none. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from extcon_cli.checkpoint.trust import Trust
from extcon_cli.data.datasets import Data
from extcon_cli.errors import DataError, UsageError
from extcon_cli.events import Emit, Noted
from extcon_cli.pipelines.running.open import Opened, open_model
from extcon_cli.pipelines.running.prepare import Prepared, prepare
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.records import Metrics
from extcon_cli.tasks import Batch, Task
from extcon_cli.tasks.base import first_samples, samples_in
from extcon_cli.training.objective import evaluate


def with_data(
    checkpoint: Path, recipe: Recipe, need_data: bool, trust: Trust, emit: Emit
) -> tuple[Opened, Prepared | None]:
    """The model, and its data where there are any.

    Raises: UsageError, DataError where there are none and `need_data`; else that is noted.
    """
    if recipe.data is None:
        if need_data:
            raise UsageError("there are no data to measure on: give --data or a recipe with a `data` section")
        return open_model(checkpoint, recipe, trust=trust, emit=emit), None
    try:
        prepared = prepare(recipe, checkpoint, trust=trust, emit=emit)
    except DataError as error:
        if need_data:
            raise
        emit(Noted(f"without data, on random inputs alone: {error}", warning=True))
        return open_model(checkpoint, recipe, trust=trust), None
    assert prepared.opened is not None
    return prepared.opened, prepared


def evaluation_batches(data: Data | None, samples: int | None = None) -> Iterator[Batch]:
    """The first test samples (None: all), in batches on the CPU; none where there are no data."""
    left = 0 if data is None else len(data.test) if samples is None else samples
    for x, y in data.eval_loader("test", device="cpu") if data is not None and left else ():
        yield first_samples(x, left), first_samples(y, left)
        left -= samples_in(x)
        if left <= 0:
            return


def figures_on(module: nn.Module, task: Task | None, batches: Iterable[Batch]) -> Metrics:
    """Loss and metrics of a module on these batches; none where there is no task."""
    if task is None:
        return {}
    with torch.no_grad():
        return evaluate(module, batches, task)
