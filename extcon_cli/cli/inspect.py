"""`extcon inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from extcon_cli.cli import checks, resolve
from extcon_cli.cli import options as o


def inspect(
    checkpoint: o.Checkpoint,
    data: Annotated[
        bool,
        typer.Option(
            "--data", metavar=o.FLAG, help="Also train copies for a few steps: is it stalled, are units dead?"
        ),
    ] = False,
    recipe: o.RecipeOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    device: o.DeviceOption = None,
    threads: o.ThreadsOption = None,
    report: o.ReportOption = None,
    trust_code: o.TrustCodeOption = False,
    trust_pickle: o.TrustPickleOption = False,
    max_memory: o.MemoryOption = None,
) -> None:
    """Look into a checkpoint: its layers, widths, parameters and MACs, and which channels can go.

    Example: `extcon inspect model.pt`

    Example: `extcon inspect model.pruned.safetensors --json`

    Example: `extcon inspect sample_models/digits_mlp_stalled.pt --data`
    """
    o.set_memory(max_memory)
    o.set_threads(threads)
    checkpoint = resolve.checkpoint_file(checkpoint)
    checks.check_reports(report)
    resolved = resolve.find_recipe("inspect", recipe, checkpoint, overrides)
    if data:
        checks.require_data(resolved, checkpoint)

    from extcon_cli.cli.console import listening
    from extcon_cli.cli.results import deliver

    with listening(quiet=quiet) as emit:  # on a terminal: a sign of life while the model is traced
        from extcon_cli.pipelines.inspect import inspect as run

        result = run(
            checkpoint,
            resolved.recipe,
            data=data,
            device=device,
            trust=resolve.trust(trust_code, trust_pickle, resolved),
            emit=emit,
        )
    deliver(result, as_json=as_json, reports=report, quiet=quiet)
