"""`extcon train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from extcon_cli.cli import checks, resolve
from extcon_cli.cli import options as o
from extcon_cli.errors import UsageError


def train(
    checkpoint: Annotated[
        Path | None, typer.Argument(metavar="CKPT", help="Go on from this checkpoint. Default: from scratch.")
    ] = None,
    out: o.OutOption = None,
    data: o.DataOption = None,
    recipe: o.RecipeOption = None,
    overrides: o.SetOption = None,
    seed: o.SeedOption = None,
    device: o.DeviceOption = None,
    threads: o.ThreadsOption = None,
    deterministic: o.DeterministicOption = False,
    resume: o.ResumeOption = False,
    dry_run: o.DryRunOption = False,
    keep_run: o.KeepRunOption = False,
    force: o.ForceOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    report: o.ReportOption = None,
    junit: o.JunitOption = None,
    log_with: o.LogWithOption = None,
    trust_code: o.TrustCodeOption = False,
    trust_pickle: o.TrustPickleOption = False,
    max_memory: o.MemoryOption = None,
) -> None:
    """Train a recipe from scratch, or go on from a checkpoint.

    The output is a .safetensors file that says all, or with --out NAME.pt a plain PyTorch state dict.

    Example: `extcon train --recipe train/digits_resnet --out digits.pt`

    Example: `extcon train digits.pt --recipe mine.yaml --set train.epochs=5`
    """
    o.set_memory(max_memory)
    o.set_threads(threads)
    o.set_deterministic(deterministic)
    if checkpoint is None and recipe is None:
        raise UsageError("nothing to train: give --recipe FILE|NAME (see `extcon recipe list`), or a checkpoint")
    if dry_run and resume:
        raise UsageError("--dry-run tries a whole run out: it goes without --resume")
    if checkpoint is not None:
        checkpoint = resolve.checkpoint_file(checkpoint)
    output = out or (
        checkpoint.with_name(f"{checkpoint.stem}.trained.safetensors")
        if checkpoint is not None
        else Path(f"{Path(str(recipe)).stem}.safetensors")
    )
    checks.check_reports(report)
    checks.check_junit(junit)
    checks.check_trackers(log_with)
    kind = resolve.data_kind(data)
    resolved = resolve.find_recipe("train", recipe, checkpoint, overrides, kind, seed=seed)
    force = checks.check_output(output, force=force, resume=resume, suffixes=[".safetensors", ".pt", ".pth"])

    from extcon_cli.cli.console import listening
    from extcon_cli.cli.gated import gated
    from extcon_cli.cli.previews import show_dry_run
    from extcon_cli.cli.results import deliver

    trust = resolve.trust(trust_code, trust_pickle, resolved)
    gate = gated("train", checkpoint, as_json=as_json, reports=report, quiet=quiet, junit=junit)
    with gate, listening(quiet=quiet, log_with=None if dry_run else log_with) as emit:
        from extcon_cli.pipelines.running.rehearsal import quietly, rehearse
        from extcon_cli.pipelines.train import train as run  # takes seconds: torch

        if dry_run:
            told = quietly(emit, output)
            tried = rehearse(
                "train",
                resolved.recipe,
                checkpoint,
                lambda short, to: run(
                    short, checkpoint=checkpoint, output=to, device=device, trust=trust, emit=told, rehearsal=True
                ),
                output=output,
                trust=trust,
            )
        else:
            result = run(
                resolved.recipe,
                checkpoint=checkpoint,
                output=output,
                device=device,
                resume=resume,
                force=force,
                keep_run=keep_run,
                trust=trust,
                emit=emit,
            )
    if dry_run:
        return show_dry_run(tried, as_json=as_json, quiet=quiet)
    deliver(result, as_json=as_json, reports=report, quiet=quiet, junit=junit)
