"""`extcon evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from extcon_cli.cli import checks, completion, resolve
from extcon_cli.cli import options as o
from extcon_cli.data import SPLITS
from extcon_cli.errors import UsageError


def evaluate(
    checkpoint: o.Checkpoint,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="test, validation or train.", autocompletion=completion.splits)
    ] = "test",
    min_accuracy: o.MinAccuracyOption = None,
    data: o.DataOption = None,
    recipe: o.RecipeOption = None,
    overrides: o.SetOption = None,
    seed: o.SeedOption = None,
    device: o.DeviceOption = None,
    threads: o.ThreadsOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    report: o.ReportOption = None,
    junit: o.JunitOption = None,
    trust_code: o.TrustCodeOption = False,
    trust_pickle: o.TrustPickleOption = False,
    max_memory: o.MemoryOption = None,
) -> None:
    """Measure a checkpoint on its data: loss and accuracy, or R2. Changes nothing.

    Example: `extcon evaluate model.pruned.safetensors`

    Example: `extcon evaluate model.pt --split validation --json`
    """
    o.set_memory(max_memory)
    o.set_threads(threads)
    if split not in SPLITS:
        raise UsageError(f"--split {split}: should be one of {', '.join(SPLITS)}")
    checks.check_accuracy(min_accuracy)
    checkpoint = resolve.checkpoint_file(checkpoint)
    checks.check_reports(report)
    checks.check_junit(junit)
    kind = resolve.data_kind(data)
    resolved = resolve.find_recipe("evaluate", recipe, checkpoint, overrides, kind, seed=seed)

    from extcon_cli.cli.console import listening
    from extcon_cli.cli.gated import gated
    from extcon_cli.cli.results import deliver

    trust = resolve.trust(trust_code, trust_pickle, resolved)
    gate = gated("evaluate", checkpoint, as_json=as_json, reports=report, quiet=quiet, junit=junit)
    with gate, listening(quiet=quiet) as emit:
        from extcon_cli.pipelines.evaluate import evaluate as run  # takes seconds: torch

        result = run(
            checkpoint,
            resolve.complete(resolved, checkpoint, kind, overrides, trust, emit),
            split=split,
            min_accuracy=min_accuracy,
            device=device,
            trust=trust,
            emit=emit,
        )
    deliver(result, as_json=as_json, reports=report, quiet=quiet, junit=junit)
