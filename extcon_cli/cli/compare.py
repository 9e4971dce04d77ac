"""`extcon compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from extcon_cli.cli import checks, resolve
from extcon_cli.cli import options as o
from extcon_cli.errors import CheckpointError, UsageError
from extcon_cli.export.formats import named, written_as


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Checkpoints, folders, exported files: .onnx, .pt2, .ts, OpenVINO's .xml."),
    ],
    samples: Annotated[
        int | None, typer.Option(metavar="N", parser=o.whole, help="Test samples at most to measure on. Default: all.")
    ] = None,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", metavar=o.FLAG, help="Do not measure how fast they are.")
    ] = False,
    data: o.DataOption = None,
    recipe: o.RecipeOption = None,
    overrides: o.SetOption = None,
    threads: o.ThreadsOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write a report: .html, .md, .json, or the chart: .png. Repeatable.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    trust_code: o.TrustCodeOption = False,
    trust_pickle: o.TrustPickleOption = False,
    max_memory: o.MemoryOption = None,
) -> None:
    """Measure files side by side: what they are worth on data, parameters, MACs, size, latency. Changes nothing.

    Exported files run in their own runtime, on the inputs and data of the first checkpoint of the list.

    Example: `extcon compare model.pt model.pruned.safetensors model.pruned.onnx`

    Example: `extcon compare model.pt model.int8.onnx --report compared.html --report compared.png`
    """
    o.set_memory(max_memory)
    o.set_threads(threads)
    if samples is not None and samples < 1:
        raise UsageError(f"--samples {samples}: should be 1 or more")
    checks.check_reports(report, chart=True)
    kind = resolve.data_kind(data)
    paths = [_found(path) for path in files]
    resolved = [resolve.find_recipe("evaluate", recipe, path, overrides, kind) for path in paths]

    from extcon_cli.cli.console import listening
    from extcon_cli.cli.results import deliver

    with listening(quiet=quiet) as emit:
        from extcon_cli.pipelines.compare import compare as run  # takes seconds: torch

        result = run(
            paths,
            [found.recipe for found in resolved],
            samples=samples,
            latency=not no_latency,
            need_data=data is not None or recipe is not None,
            trust=resolve.trust(trust_code, trust_pickle, *resolved),
            emit=emit,
        )
    deliver(result, as_json=as_json, reports=report, quiet=quiet)


def _found(path: Path) -> Path:
    """The file. CheckpointError: it is none that can be read; UsageError: its runtime is not installed."""
    format = written_as(path)
    if format is None:
        return resolve.checkpoint_file(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file.")
    named(format)
    return path
