"""`extcon export`: trace, write, run in the file's own runtime without extcon, compare. Trains nothing.

The file appears at its place when it has given what the checkpoint gives, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from extcon_cli.channels.compare import Inputs, batch_size, call, compare, outputs, results
from extcon_cli.checkpoint.precision import lossless
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.errors import GateError, TraceError, UsageError, first_line
from extcon_cli.events import Emit, RunStarted, Saved, ignore, phase
from extcon_cli.export import state_dict
from extcon_cli.export.formats import Format, named
from extcon_cli.export.module import ExportedModule
from extcon_cli.export.place import hidden_folder, publish
from extcon_cli.export.program import Program, program, varied
from extcon_cli.export.quantize import quantize as quantized_file
from extcon_cli.export.runtime import arrays, clock, running, runtime, timed
from extcon_cli.pipelines.running.if_data import evaluation_batches, figures_on, with_data
from extcon_cli.pipelines.running.measure import BATCHES, output_difference
from extcon_cli.pipelines.running.open import Opened
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.export import ExportResult, FileInput, RunnableFile
from extcon_cli.report.results.records import Metrics, OutputDifference
from extcon_cli.tasks import Batch, Task
from extcon_cli.tasks.base import as_arguments, samples_in

MAX_DIFF = 1e-4
"""Share of the largest output: runtimes add up in another order, and fold norms into weights."""
SAMPLES = 1000
"""Test samples at most that metrics and real inputs are taken from."""
CALIBRATION = 8
"""Batches of training data that int8 takes its ranges from."""


def export(
    checkpoint: Path,
    recipe: Recipe,
    *,
    format: str,
    output: Path,
    quantize: str | None = None,
    max_diff: float = MAX_DIFF,
    max_drop: float | None = None,
    samples: int = SAMPLES,
    need_data: bool = False,
    force: bool = False,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> ExportResult:
    """Write a checkpoint as a file that runs without extcon, checked by running it so.

    Args:
        format: one of `export.formats.FORMATS`.
        quantize: "int8": write an int8 file beside it as well (onnx), calibrated on training data.
        max_diff: GateError, and nothing written, where an output differs by a larger share of the largest.
        max_drop: GateError where int8 loses more points than this.
        samples: of the test data at most, for metrics.
        need_data: the recipe's data have to be there; else they are left out with a note where they are not.

    Raises: UsageError (packages are missing, the output exists), TraceError (it cannot be exported).
    """
    kind = named(format)
    if quantize is not None and (quantize != "int8" or format != "onnx"):
        raise UsageError(f"--quantize {quantize}: only int8 with --format onnx")
    for path in (output, *([output.with_suffix(".bin")] if format == "openvino" else [])):
        if path.exists() and not force:
            raise UsageError(f"{path} exists already; overwrite it with --force or choose another --out")
    opened, prepared = with_data(checkpoint, recipe, need_data or quantize is not None, trust, emit)
    emit(RunStarted("export", str(checkpoint), str(output), "cpu", recipe.seed))
    module = opened.module.eval()
    if format == "state-dict":
        return _tensors(checkpoint, opened, output, kind, max_diff=max_diff, emit=emit)
    with phase(emit, "trace", "Tracing the model"):
        found = program(module, prepared.example if prepared is not None else opened.example)
    real = list(evaluation_batches(None if prepared is None else prepared.data, samples))
    task = prepared.task if prepared is not None and real else None
    with hidden_folder(output) as folder:
        written = folder / output.name
        with phase(emit, "write", f"Writing {format}"):
            try:
                found = cast(Any, kind).write(found, written)
            except (TraceError, UsageError):
                raise
            except Exception as error:  # an exporter's own: any kind
                raise TraceError(f"{checkpoint} cannot be written as {format}: {first_line(error)}") from error
        with phase(emit, "compare", f"Running it by {kind.RUNTIME}"), running(kind, written) as process:
            far = ExportedModule(found, process)
            gaps = {
                "random": _gap(module, far, varied(found.example, found.free)),
                "evaluation": _gap(module, far, [as_arguments(x) for x, _ in real]) if real else None,
            }
            _check(gaps, max_diff, format)
            before = RunnableFile(
                path=str(checkpoint),
                runtime=runtime("torch"),
                bytes=checkpoint.stat().st_size,
                latency={str(size): clock(module, inputs) for size, inputs in timed(found, BATCHES)},
                metrics=figures_on(module, task, real),
            )
            after = _figures(kind, written, far, found, task, real)
        small = None
        if quantize is not None and prepared is not None:
            beside = folder / f"{output.stem}.int8.onnx"
            with phase(emit, "quantize", "Quantising to int8"):
                quantized_file(written, beside, _calibration(prepared, found))
                with running(kind, beside) as process:
                    small = _figures(kind, beside, ExportedModule(found, process), found, task, real)
                _check_drop(prepared, before.metrics, small.metrics, max_drop)
        publish(folder, output.parent)
    for path in (output, *([output.parent / f"{output.stem}.int8.onnx"] if small is not None else [])):
        emit(Saved(str(path), "file"))
    return ExportResult(
        checkpoint=str(checkpoint),
        output=str(output),
        format=format,
        inputs=tuple(
            FileInput(name, tuple(map(str, shape)), str(tensor.dtype).removeprefix("torch."))
            for name, shape, tensor in zip(found.names, found.shapes(), found.tensors, strict=True)
        ),
        normalize=_normalize(opened, prepared),
        max_diff=max_diff,
        differences=gaps,
        threads=torch.get_num_threads(),
        samples=sum(samples_in(x) for x, _ in real),
        before=before,
        after=replace(after, path=str(output)),
        quantized=small and replace(small, path=str(output.parent / Path(small.path).name)),
    )


def _tensors(
    checkpoint: Path, opened: Opened, output: Path, kind: Format, *, max_diff: float, emit: Emit
) -> ExportResult:
    """A plain state dict: what is read back, elsewhere, has to be the same numbers."""
    state = {
        name: lossless(name, tensor.detach().contiguous(), opened.precision)
        for name, tensor in opened.module.state_dict().items()
    }
    with hidden_folder(output) as folder:
        written = folder / output.name
        state_dict.write(state, written)
        with running(kind, written) as process:
            read = [torch.from_numpy(array) for array in process.run([])]
        own = [state[name] for name in sorted(state)]
        own = [tensor.float() if tensor.is_floating_point() and tensor.itemsize == 2 else tensor for tensor in own]
        gaps: dict[str, OutputDifference | None] = {"tensors": output_difference(compare([(own, read, len(own))]))}
        _check(gaps, max_diff, "state-dict")
        size = written.stat().st_size
        publish(folder, output.parent)
    emit(Saved(str(output), "file"))
    before = RunnableFile(str(checkpoint), runtime("torch"), checkpoint.stat().st_size, {}, {})
    return ExportResult(
        checkpoint=str(checkpoint),
        output=str(output),
        format="state-dict",
        inputs=(),
        normalize=_normalize(opened, None),
        max_diff=max_diff,
        differences=gaps,
        threads=torch.get_num_threads(),
        samples=0,
        before=before,
        after=replace(before, path=str(output), bytes=size),
    )


def _figures(
    kind: Format, path: Path, far: ExportedModule, found: Program, task: Task | None, real: list[Batch]
) -> RunnableFile:
    """What an exported file costs and is worth."""
    files = [path, *([path.with_suffix(".bin")] if path.with_suffix(".bin").exists() else [])]
    return RunnableFile(
        path=str(path),
        runtime=runtime(kind.RUNTIME),
        bytes=sum(file.stat().st_size for file in files),
        latency={str(size): far.process.latency(arrays(inputs)) for size, inputs in timed(found, BATCHES)},
        metrics=figures_on(far, task, real),
    )


def _gap(module: nn.Module, far: nn.Module, batches: list[Inputs]) -> OutputDifference:
    """The file beside the module, on each of these inputs."""

    def pairs() -> Iterator[tuple[list[Tensor], list[Tensor], int]]:
        for inputs in batches:
            yield outputs(module, inputs), results(call(far, inputs)), batch_size(inputs)

    return output_difference(compare(pairs()))


def _check(gaps: Mapping[str, OutputDifference | None], max_diff: float, format: str) -> None:
    worst = max(gap.relative for gap in gaps.values() if gap is not None)
    if not worst <= max_diff:
        raise GateError(
            f"the {format} file gives other outputs than the checkpoint, by {worst:.1e} of the largest, more than "
            f"--max-diff {max_diff:g}; nothing was written"
        )


def _check_drop(prepared: Prepared, before: Metrics, after: Metrics, max_drop: float | None) -> None:
    lost = prepared.task.drop(before, after)
    if max_drop is not None and lost > max_drop:
        raise GateError(f"int8 loses {lost:.2f} points, more than --max-drop {max_drop:g}; nothing was written")


def _calibration(prepared: Prepared, found: Program) -> Iterator[list[np.ndarray[Any, Any]]]:
    loader = prepared.data.eval_loader("train", device="cpu")
    for x, _ in islice(loader, CALIBRATION):
        yield arrays(as_arguments(x))


def _normalize(opened: Opened, prepared: Prepared | None) -> Mapping[str, object] | None:
    metadata = opened.checkpoint.metadata
    known = prepared.data.normalize if prepared is not None else metadata.normalize if metadata is not None else None
    return known.model_dump(mode="json") if known is not None else None
