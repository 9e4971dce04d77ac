"""`extcon bypass`."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from extcon_cli.cli import checks, resolve
from extcon_cli.cli import options as o
from extcon_cli.errors import UsageError


def bypass(
    checkpoint: o.Checkpoint,
    require_gain: Annotated[
        bool, typer.Option("--require-gain", metavar=o.FLAG, help="Fail (exit 4) where bypassing gains nothing.")
    ] = False,
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
    ignore_probe: Annotated[
        bool,
        typer.Option("--ignore-probe", metavar=o.FLAG, help="Bypass whatever the probe predicts, by every extension."),
    ] = False,
    ways: Annotated[
        str | None,
        typer.Option(
            "--try",
            metavar="WAYS",
            help="Follow these whatever the probe predicts: all, or names such as restart,shrink.",
        ),
    ] = None,
    allow_wider: Annotated[
        bool,
        typer.Option(
            "--allow-wider",
            metavar=o.FLAG,
            help="Where only a wider model helps, let the result be one; its price is told.",
        ),
    ] = False,
    go_on: Annotated[bool, typer.Option("--go-on", hidden=True, help="The former name of --ignore-probe.")] = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    report: o.ReportOption = None,
    junit: o.JunitOption = None,
    log_with: o.LogWithOption = None,
    trust_code: o.TrustCodeOption = False,
    trust_pickle: o.TrustPickleOption = False,
    max_memory: o.MemoryOption = None,
) -> None:
    """Escape a plateau: extend the model, train, contract it again, and compare with going on.

    Writes CKPT.bypassed.safetensors: the best on the validation data, never worse there than CKPT. With --out NAME.pt a
    plain PyTorch state dict.

    Example: `extcon bypass sample_models/digits_mlp_stalled.pt`

    Example: `extcon bypass model.pt --try restart,shrink --json`
    """
    o.set_memory(max_memory)
    o.set_threads(threads)
    o.set_deterministic(deterministic)
    if dry_run and resume:
        raise UsageError("--dry-run tries a whole run out: it goes without --resume")
    if ways is not None:
        from extcon_cli.recipe.bypass_schema import Extension  # pydantic: not for --help

        names = ",".join(get_args(Extension)) if ways == "all" else ways
        overrides, ignore_probe = [*(overrides or ()), f"bypass.extensions=[{names}]"], True
    if allow_wider:
        overrides = [*(overrides or ()), "bypass.allow_wider=true"]
    checkpoint = resolve.checkpoint_file(checkpoint)
    output = out or checkpoint.with_name(f"{checkpoint.stem}.bypassed.safetensors")
    checks.check_reports(report)
    checks.check_junit(junit)
    checks.check_trackers(log_with)
    kind = resolve.data_kind(data)
    resolved = resolve.find_recipe("bypass", recipe, checkpoint, overrides, kind, seed=seed)
    overwrite = checks.check_output(output, force=force, resume=resume, suffixes=[".safetensors", ".pt", ".pth"])
    checks.check_data(resolved, checkpoint)

    from extcon_cli.cli.console import listening
    from extcon_cli.cli.gated import gated
    from extcon_cli.cli.previews import show_dry_run
    from extcon_cli.cli.results import deliver

    trust = resolve.trust(trust_code, trust_pickle, resolved)
    gate = gated("bypass", checkpoint, as_json=as_json, reports=report, quiet=quiet, junit=junit)
    with gate, listening(quiet=quiet, log_with=None if dry_run else log_with) as emit:
        from extcon_cli.pipelines.bypass import bypass as run  # takes seconds: torch
        from extcon_cli.pipelines.running.rehearsal import quietly, rehearse

        complete = resolve.complete(resolved, checkpoint, kind, overrides, trust, emit)
        if dry_run:
            told = quietly(emit, output)
            tried = rehearse(
                "bypass",
                complete,
                checkpoint,
                lambda short, to: run(
                    checkpoint, short, output=to, device=device, ignore_probe=True, trust=trust, emit=told,
                    rehearsal=True,
                ),
                output=output,
                trust=trust,
            )  # fmt: skip
        else:
            result = run(
                checkpoint,
                complete,
                output=output,
                device=device,
                resume=resume,
                force=overwrite,
                ignore_probe=ignore_probe or go_on,
                require_gain=require_gain,
                keep_run=keep_run,
                trust=trust,
                emit=emit,
            )
    if dry_run:
        return show_dry_run(tried, as_json=as_json, quiet=quiet)
    deliver(result, as_json=as_json, reports=report, quiet=quiet, junit=junit)
