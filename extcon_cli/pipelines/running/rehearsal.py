"""`--dry-run`: the whole command on a few batches, into a folder that is thrown away. Nothing of it is kept.

Each phase takes a step or two with the real batch sizes, and what it gives is removed, measured and written. So what
stands in the way of the real run shows here: trust, shapes, memory, targets, outputs. The data are read besides, for
some seconds.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from extcon_cli.checkpoint.trust import Trust
from extcon_cli.data import SPLITS
from extcon_cli.data.datasets import Data
from extcon_cli.data.splits import Split
from extcon_cli.errors import DataError, UsageError
from extcon_cli.events import Emit, Event, RunStarted, Saved
from extcon_cli.pipelines.running.prepare import Prepared, prepare
from extcon_cli.recipe.base import Duration
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.bypass import BypassResult
from extcon_cli.report.results.previews import DryRunResult
from extcon_cli.report.results.prune import PruneResult
from extcon_cli.report.results.records import Size
from extcon_cli.report.results.train import TrainResult
from extcon_cli.training.optim import total_steps

READING = 10.0
"""Seconds for which the data are read."""
Worked = PruneResult | BypassResult | TrainResult


def rehearse(
    command: str,
    recipe: Recipe,
    checkpoint: Path | None,
    run: Callable[[Recipe, Path], Worked],  # the command itself, with this recipe and this output
    *,
    output: Path,  # of the real run, which was checked
    trust: Trust,
    sparing: bool = False,
) -> DryRunResult:
    """Try a command out, and say what it would do. `sparing`: as in `start_run`.

    Raises: what the command itself would raise, and UsageError where the output has no room.
    """
    began = time.monotonic()
    prepared = prepare(recipe, checkpoint, trust=trust, sparing=sparing)
    read = _read(prepared, until=began + READING)
    steps = planned_steps(command, recipe, len(prepared.data.train_loader(device="cpu", seed=0)))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, output.name)
        result = run(shortened(recipe), copy)
        needed = 2 * sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    if (free := shutil.disk_usage(output.parent).free) < needed:
        raise UsageError(f"{output.parent} has {free / 1e6:.0f} MB left, about {needed / 1e6:.0f} MB are needed")
    sizes = _sizes(result)
    return DryRunResult(
        tried=command,
        checkpoint=str(checkpoint) if checkpoint is not None else None,
        output=str(output),
        device=result.run.device,
        samples={name: len(_split(prepared.data, name)) for name in SPLITS},
        read=read,
        steps=steps,
        before=sizes[0],
        after=sizes[1],
        seconds=time.monotonic() - began,
    )


def quietly(emit: Emit, output: Path) -> Emit:
    """Events of a rehearsal as the user should see them: the real output's name, and nothing was saved."""

    def tell(event: Event) -> None:
        if isinstance(event, RunStarted):
            emit(replace(event, output=str(output)))
        elif not isinstance(event, Saved):
            emit(event)

    return tell


def shortened(recipe: Recipe) -> Recipe:
    """The same recipe with phases of a step each; paths, shapes and batch sizes stay."""
    one: dict[str, object] = {"epochs": None, "steps": 1}
    prune, bypass = recipe.prune, recipe.bypass
    reliable = {"method": "none"} if prune.bifurcate.method in ("proximal", "penalty") else {}  # zero in their own time
    batch = recipe.data.batch_size if recipe.data is not None else 1
    return recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update=one),
            "prune": prune.model_copy(
                update={
                    "score": prune.score.model_copy(
                        update={
                            "batches": min(2, prune.score.batches),
                            "images": min(batch, prune.score.images),
                            "steps": 1,
                        }
                    ),
                    "bifurcate": prune.bifurcate.model_copy(update={**one, **reliable}),
                    "compensate": prune.compensate.model_copy(update={"images": min(batch, prune.compensate.images)}),
                    "finetune": prune.finetune.model_copy(update=one if prune.finetune.steps != 0 else {}),
                }
            ),
            "bypass": bypass.model_copy(
                update={
                    "cycles": 1,
                    "probe": bypass.probe.model_copy(update={"steps": 8}),
                    **{name: getattr(bypass, name).model_copy(update=one) for name in ("opt_1", "opt_2", "train_3")},
                }
            ),
        }
    )


def planned_steps(command: str, recipe: Recipe, steps_per_epoch: int) -> dict[str, int]:
    """Training steps of each phase of the real run."""
    prune, bypass = recipe.prune, recipe.bypass
    shrink = prune.bifurcate if prune.bifurcate.method != "none" else None
    phases: Mapping[str, Mapping[str, Duration | None]] = {
        "prune": {"bifurcate": shrink, "finetune": prune.finetune},
        "bypass": {"opt_1": bypass.opt_1, "opt_2": bypass.opt_2, "train_3": bypass.train_3},
        "train": dict.fromkeys([*map(guide_name, recipe.train.guides), "train"], recipe.train),
    }
    lengths = phases[command].items()
    return {name: 0 if length is None else total_steps(length, steps_per_epoch) for name, length in lengths}


def guide_name(share: float) -> str:
    """The phase of a guide of this share (`train.guides`)."""
    return f"guide {share:g}"


def _split(data: Data, name: str) -> Split:
    return {"train": data.train, "validation": data.validation, "test": data.test}[name]


def _read(prepared: Prepared, until: float) -> int:
    """Read samples of every split, until a moment: how many. DataError where one is not finite."""
    count = 0
    for name, x in _batches(prepared.data):
        for leaf in tree_leaves(x):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and not torch.isfinite(leaf).all():
                raise DataError(f"the {name} data of {prepared.data.spec.dataset} hold NaN or infinity")
        count += prepared.data.spec.eval_batch_size
        if time.monotonic() > until:
            break
    return min(count, sum(len(_split(prepared.data, split)) for split in SPLITS))


def _batches(data: Data) -> Iterator[tuple[str, object]]:
    """Inputs and targets of all splits, the one whose samples nothing else reads first."""
    for name in SPLITS:
        if len(_split(data, name)):
            for batch in data.eval_loader(name, device="cpu"):
                yield name, batch


def _sizes(result: Worked) -> tuple[Size | None, Size | None]:
    """Before and after, where the command changes the architecture."""
    return (None, None) if isinstance(result, TrainResult) else (result.before.size, result.after.size)
