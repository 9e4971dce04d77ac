"""`extcon export`."""

from __future__ import annotations

from typing import Annotated

import typer

from extcon_cli.cli import checks, completion, resolve
from extcon_cli.cli import options as o
from extcon_cli.errors import UsageError
from extcon_cli.export.formats import FORMATS, beside, named


def export(
    checkpoint: o.Checkpoint,
    format: Annotated[
        str,
        typer.Option(
            "--format", metavar="NAME", help=f"One of {', '.join(FORMATS)}.", autocompletion=completion.formats
        ),
    ] = "onnx",
    quantize: Annotated[
        str | None,
        typer.Option("--quantize", metavar="int8", help="With onnx: also an int8 file, calibrated on training data."),
    ] = None,
    max_diff: Annotated[
        float, typer.Option(metavar="SHARE", parser=o.number, help="Bound, as a share of the largest output.")
    ] = 1e-4,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", parser=o.number, help="Fail (exit 4) where int8 loses more than this."),
    ] = None,
    samples: Annotated[
        int, typer.Option(metavar="N", parser=o.whole, help="Test samples at most to measure on.")
    ] = 1000,
    out: o.OutOption = None,
    data: o.DataOption = None,
    recipe: o.RecipeOption = None,
    overrides: o.SetOption = None,
    threads: o.ThreadsOption = None,
    force: o.ForceOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    report: o.ReportOption = None,
    junit: o.JunitOption = None,
    trust_code: o.TrustCodeOption = False,
    trust_pickle: o.TrustPickleOption = False,
    max_memory: o.MemoryOption = None,
) -> None:
    """Write a file that runs without extcon, and check it: run in its own runtime, beside the checkpoint.

    Exit code 4, and nothing written, where an output differs by more than the bound.

    Example: `extcon export model.pruned.safetensors --format onnx`

    Example: `extcon export model.pt --format onnx --quantize int8 --max-drop 1.0`

    Example: `extcon export model.pt --format pt2 --out model.pt2 --json`
    """
    o.set_memory(max_memory)
    o.set_threads(threads)
    if not max_diff >= 0:
        raise UsageError(f"--max-diff {max_diff:g}: should be 0 or more")
    if samples < 1:
        raise UsageError(f"--samples {samples}: should be 1 or more")
    named(format)
    checkpoint = resolve.checkpoint_file(checkpoint)
    output = out or beside(checkpoint, format)
    if output.resolve() == checkpoint.resolve():
        raise UsageError(f"{output} is the checkpoint itself; choose another --out")
    kind = resolve.data_kind(data)
    resolved = resolve.find_recipe("export", recipe, checkpoint, overrides, kind)
    force = checks.check_output(output, force=force, resume=False, suffixes=[FORMATS[format][1]])
    checks.check_reports(report)
    checks.check_junit(junit)

    from extcon_cli.cli.console import listening
    from extcon_cli.cli.gated import gated
    from extcon_cli.cli.results import deliver

    gate = gated("export", checkpoint, as_json=as_json, reports=report, quiet=quiet, junit=junit)
    with gate, listening(quiet=quiet) as emit:
        from extcon_cli.pipelines.export import export as run  # takes seconds: torch

        result = run(
            checkpoint,
            resolved.recipe,
            format=format,
            output=output,
            quantize=quantize,
            max_diff=max_diff,
            max_drop=max_drop,
            samples=samples,
            need_data=data is not None or recipe is not None,
            force=force,
            trust=resolve.trust(trust_code, trust_pickle, resolved),
            emit=emit,
        )
    deliver(result, as_json=as_json, reports=report, quiet=quiet, junit=junit)
