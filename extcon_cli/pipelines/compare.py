"""`extcon compare A B ...`: checkpoints, folders and exported files, measured here beside each other. Changes nothing.

An exported file says neither its task nor how its inputs are normalised. So it is given the inputs and the data of the
first checkpoint of the list; where there is none, those of its own recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from extcon_cli.channels.compare import Inputs
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.data.datasets import Data, open_data
from extcon_cli.errors import CheckpointError, GateError, RecipeError
from extcon_cli.events import Emit, Noted, RunStarted, ignore, phase
from extcon_cli.export.elsewhere import Elsewhere
from extcon_cli.export.formats import named, written_as
from extcon_cli.export.module import ExportedModule, Unknown
from extcon_cli.export.program import at_batch
from extcon_cli.export.runtime import arrays, clock, running, runtime
from extcon_cli.pipelines.running.if_data import evaluation_batches, figures_on, with_data
from extcon_cli.pipelines.running.inputs import made
from extcon_cli.pipelines.running.measure import BATCHES
from extcon_cli.pipelines.running.own_task import find_task
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import measure
from extcon_cli.report.results.compare import ComparedFile, CompareResult
from extcon_cli.report.results.records import Metrics
from extcon_cli.tasks import Task

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
"""Files of a folder that hold its tensors."""


@dataclass(frozen=True)
class Trial:
    """What a file is run on: an input of two samples, and data with their task where there are any."""

    example: Inputs
    data: Data | None = None
    task: Task | None = None
    caution: str | None = None
    """Why figures on the test data say less than they seem to."""


@dataclass(frozen=True)
class Measuring:
    """What is asked of every file."""

    samples: int | None
    latency: bool
    need_data: bool
    trust: Trust
    emit: Emit


def compare(
    paths: Sequence[Path],
    recipes: Sequence[Recipe],
    *,
    samples: int | None = None,
    latency: bool = True,
    need_data: bool = False,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> CompareResult:
    """Measure each file: what it holds, what it computes, how long it takes, and what it is worth on data.

    Args:
        paths: checkpoints, folders of transformers, exported files (.onnx, .pt2, .ts, .xml).
        recipes: one for each; `model`, `data`, `task` count.
        samples: of the test data at most. None: all of them.
        latency: measure it.
        need_data: the data have to be there; else a checkpoint without them has no metrics.

    Raises: CheckpointError (a file does not run), UsageError (its runtime is not installed), RecipeError (nothing says
    what an exported file takes).
    """
    how = Measuring(samples, latency, need_data, trust, emit)
    emit(RunStarted("compare", ", ".join(map(str, paths)), None, "cpu", recipes[0].seed))
    found: dict[int, ComparedFile] = {}
    trial: Trial | None = None
    for place, (path, recipe) in enumerate(zip(paths, recipes, strict=True)):
        if written_as(path) is None:
            found[place], own = _checkpoint(path, recipe, how)
            trial = trial or own
    for place, (path, recipe) in enumerate(zip(paths, recipes, strict=True)):
        if place not in found:
            trial = trial or _described(path, recipe, how)
            found[place] = _exported(path, trial, how)
    assert trial is not None, "there is at least one file"
    size = 0 if trial.data is None else len(trial.data.test)
    return CompareResult(
        files=tuple(found[place] for place in range(len(paths))),
        samples=size if samples is None else min(size, samples),
        threads=torch.get_num_threads(),
        test_caution=trial.caution,
    )


def _checkpoint(path: Path, recipe: Recipe, how: Measuring) -> tuple[ComparedFile, Trial]:
    """Figures of a checkpoint or a folder, and what they were measured on."""
    opened, prepared = with_data(path, recipe, how.need_data, how.trust, how.emit)
    trial = Trial(opened.example)
    if prepared is not None:
        trial = Trial(prepared.example, prepared.data, prepared.task, prepared.test_caution)
    module = opened.module.eval()
    with phase(how.emit, path.name, f"Measuring {path.name}"):
        size = measure(module, trial.example, opened.precision)
        times = {str(batch): clock(module, at_batch(trial.example, batch)) for batch in BATCHES if how.latency}
        metrics = figures_on(module, trial.task, evaluation_batches(trial.data, how.samples))
    kind, files = "checkpoint", [path]
    if path.is_dir():
        kind, files = "folder", [file for file in path.iterdir() if file.suffix in WEIGHTS]
    bytes_ = sum(file.stat().st_size for file in files)
    return ComparedFile(str(path), kind, runtime("torch"), size.params, size.macs, bytes_, times, metrics), trial


def _exported(path: Path, trial: Trial, how: Measuring) -> ComparedFile:
    """Figures of an exported file, in its own runtime and in a process without extcon."""
    name = str(written_as(path))
    kind = named(name)
    example = trial.example
    form = Unknown(tuple(example) if isinstance(example, Mapping) else ())
    with phase(how.emit, path.name, f"Measuring {path.name} by {kind.RUNTIME}"):
        try:
            with running(kind, path) as process:
                one, times = _latencies(process, example, wanted=how.latency)
                params, macs = process.costs(arrays(one))
                metrics = _figures(path, ExportedModule(form, process), trial, how)
        except GateError as error:
            raise CheckpointError(f"{path}: {error}") from error
    files = [path, *([path.with_suffix(".bin")] if name == "openvino" else [])]
    size = sum(file.stat().st_size for file in files)
    return ComparedFile(str(path), name, runtime(kind.RUNTIME), params, macs, size, times, metrics)


def _latencies(process: Elsewhere, example: Inputs, *, wanted: bool) -> tuple[Inputs, dict[str, float]]:
    """An input of as few samples as the file takes, and the seconds of each batch size that it takes.

    GateError: it takes no batch of the example.
    """
    problems = {batch: _problem(process, at_batch(example, batch)) for batch in sorted({*BATCHES, 2})}
    taken = [batch for batch, problem in problems.items() if problem is None]
    if not taken:
        raise GateError(f"it does not take the inputs: {problems[2]}")
    timed = [batch for batch in taken if batch in BATCHES] or taken
    times = {str(batch): process.latency(arrays(at_batch(example, batch))) for batch in timed if wanted}
    return at_batch(example, taken[0]), times


def _problem(process: Elsewhere, inputs: Inputs) -> RuntimeError | None:
    """Why a file does not take these inputs; None: it does."""
    try:
        process.run(arrays(inputs))
    except RuntimeError as error:
        return error
    return None


def _figures(path: Path, module: ExportedModule, trial: Trial, how: Measuring) -> Metrics:
    """Loss and metrics of an exported file; none, and a note, where it does not take batches of the data."""
    try:
        return figures_on(module, trial.task, evaluation_batches(trial.data, how.samples))
    except GateError as error:
        how.emit(Noted(f"{path.name} has no figures on the data: {error}", warning=True))
        return {}


def _described(path: Path, recipe: Recipe, how: Measuring) -> Trial:
    """What a recipe says of an exported file's inputs, where no checkpoint does."""
    model, task = recipe.model, find_task(recipe.task, how.trust, path.parent)
    if recipe.data is not None:
        data = open_data(
            recipe.data,
            recipe.task,
            seed=recipe.seed,
            input_shape=model.input_shape,
            trust_code=how.trust.named_code,
            measure=True,
        )
        return Trial(task.example(data.tried().example(2, device="cpu")[0]), data, task)
    if model.inputs is not None:
        return Trial(made(model.inputs, dtype=torch.float32))
    if model.input_shape is None:
        raise RecipeError(
            f"{path}: nothing says what it takes: name the checkpoint that it comes from too, or give --data, or "
            "--set model.input_shape=[3,32,32]"
        )
    return Trial((torch.zeros(2, *model.input_shape),))
