"""`extcon prune`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extcon_cli.checkpoint.folder import is_transformers
from extcon_cli.checkpoint.ultralytics.look import is_ultralytics
from extcon_cli.cli import checks, completion, places, resolve
from extcon_cli.cli import options as o
from extcon_cli.errors import UsageError
from extcon_cli.export.formats import FORMATS
from extcon_cli.processes import launched

if TYPE_CHECKING:
    from extcon_cli.report.results.prune import PruneResult, SweepResult


def prune(
    checkpoint: o.Checkpoint,
    ratio: o.RatioOption = None,
    macs: o.MacsOption = None,
    params: o.ParamsOption = None,
    size: o.SizeOption = None,
    latency: o.LatencyOption = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="Remove what a plan says, as `extcon plan` writes it.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", parser=o.number, help="Fail (exit 4) where more accuracy is lost than this."),
    ] = None,
    min_accuracy: o.MinAccuracyOption = None,
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Fail (exit 4) where more bytes of tensors are left: 10MB, 512KiB."),
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Fail (exit 4) where a batch takes longer: 4ms, or 0.6 of the original."),
    ] = None,
    already_zero: Annotated[
        bool,
        typer.Option("--already-zero", metavar=o.FLAG, help="Only cut what is dead already: no data, no training."),
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(metavar="SIZE", parser=o.number, help="With --already-zero: what counts as zero."),
    ] = 0.0,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", metavar=o.FLAG, help="Do not measure how fast the models are.")
    ] = False,
    exports: Annotated[
        list[str] | None,
        typer.Option(
            "--export",
            metavar="FORMAT",
            help=f"Also export the result: {', '.join(FORMATS)}. Repeatable.",
            autocompletion=completion.formats,
        ),
    ] = None,
    runtime: o.RuntimeOption = None,
    batch_size: o.BatchSizeOption = None,
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
    """Remove filters: drive them to exactly zero, cut them out, and measure that no output changed.

    Writes CKPT.pruned.safetensors, which `extcon_cli.load` gives back as a smaller module. Of a folder of Hugging Face,
    writes a folder that plain `from_pretrained` opens; without data its smallest filters go, and nothing is trained.
    Of a checkpoint of Ultralytics, writes a .pt that it takes unchanged.

    Example: `extcon prune model.pt --ratio 0.5`

    Example: `extcon prune model.pt --recipe mine.yaml --set data.root=~/data --report pruned.html`

    Example: `extcon prune model.pt --ratio 0.3 --max-drop 1.0 --json > result.json`

    Example: `extcon prune model.pt --macs 0.5 --set prune.decide.round_to=8`

    Example: `extcon prune model.pt --ratio 0.3,0.5,0.7 --report tradeoff.html`, one output for each

    Example: `extcon prune model.pt --plan model.plan.json`

    Example: `extcon prune masked.pt --already-zero`

    Example: `extcon prune ./bert --ratio 0.25`

    Example: `extcon prune yolov8n.pt --data coco8.yaml --trust-pickle --ratio 0.3`

    Example: `extcon prune model.pt --ratio 0.3 --set prune.data=none`
    """
    o.set_memory(max_memory)
    o.set_threads(threads)
    o.set_deterministic(deterministic)
    targets = {"ratio": ratio, "macs": macs, "params": params, "size": size, "latency": latency}
    asked, aims = resolve.aims(**targets)
    several = len(asked) > 1
    from extcon_cli.recipe.sizes import bytes_of

    most = int(bytes_of(max_size)) if max_size is not None else None
    measured = any(limit is not None for limit in (min_accuracy, most, max_latency))
    _check_together(
        aim=bool(asked),
        several=several,
        plan=plan is not None,
        already_zero=already_zero,
        tolerance=tolerance,
        max_drop=max_drop,
        measured=measured,
        resume=resume,
        dry_run=dry_run,
    )
    checks.check_accuracy(min_accuracy)
    checks.check_latency(max_latency, measured=not no_latency)
    timing = resolve.timing(runtime, batch_size)
    checkpoint = resolve.checkpoint_file(checkpoint)
    theirs = is_ultralytics(checkpoint) and not already_zero and (out is None or out.suffix != ".safetensors")
    if theirs:
        checks.check_ultralytics(resume=resume, export=bool(exports), several=several)
    kind = resolve.data_kind(data, theirs=theirs)
    every = [
        resolve.find_recipe("prune", recipe, checkpoint, overrides, kind, **aim, **timing, seed=seed) for aim in aims
    ]
    ending = ".pt" if theirs else ".safetensors"
    resolved, output = every[0], places.output_of(checkpoint, out, ending)
    outputs = places.outputs_of(output, asked)
    forced = places.check_places(checkpoint, output, outputs, exports, ending=ending, force=force, resume=resume)
    checks.check_reports(report, chart=several)
    checks.check_junit(junit)
    checks.check_trackers(log_with)
    folder = is_transformers(checkpoint)
    made = resolved.recipe.prune.data == "none"
    if made and (kind is not None or plan is not None or theirs):
        raise UsageError(
            "prune.data none chooses filters and reads no data: it goes without --data and --plan, and not with "
            "checkpoints of Ultralytics"
        )
    without_data = made or (folder and kind is None and resolved.recipe.data is None and plan is None)
    without_data = without_data and not already_zero
    if without_data and (measured or max_drop is not None or resume or dry_run or several):
        raise UsageError(
            "without data nothing is measured or trained: give --data, or one target without gates, --resume and "
            "--dry-run"
        )
    if not already_zero and not without_data:
        checks.check_data(resolved, checkpoint)
    if launched().number > 1 and (already_zero or without_data or several or theirs):
        raise UsageError(
            "several processes prune to one target, with data: start all else without torchrun or accelerate launch"
        )

    from extcon_cli.cli import pruning
    from extcon_cli.cli.console import listening
    from extcon_cli.cli.gated import gated
    from extcon_cli.cli.previews import show_dry_run
    from extcon_cli.cli.results import deliver

    trust = resolve.trust(trust_code, trust_pickle, resolved)
    wish = pruning.Wish(
        checkpoint,
        output,
        resolved.recipe,
        formats=tuple(exports or ()),
        limits=(max_drop, min_accuracy, most, max_latency),
        latency=not no_latency,
        plan=plan,
        device=device,
        resume=resume,
        force=forced[0],
        keep_run=keep_run,
        trust=trust,
    )
    gate = gated("prune", checkpoint, as_json=as_json, reports=report, quiet=quiet, junit=junit)
    with gate, listening(quiet=quiet, log_with=None if dry_run else log_with) as emit:
        if already_zero:
            found: PruneResult | SweepResult = pruning.of_what_is_dead(wish, emit, tolerance)
        elif without_data:
            found = pruning.at_once(wish, emit)
        elif theirs and dry_run:
            tried = pruning.tried_out_for_ultralytics(wish, emit)
        elif theirs:
            found = pruning.of_ultralytics(wish, emit)
        else:
            wish = replace(wish, recipe=resolve.complete(resolved, checkpoint, kind, overrides, trust, emit))
            if several:
                quantity = next(name for name, text in targets.items() if text is not None)
                members = pruning.members(wish.recipe, asked, every, outputs, forced)
                found = pruning.to_several(wish, emit, quantity, members)
            elif dry_run:
                tried = pruning.tried_out(wish, emit)
            else:
                found = pruning.to_one(wish, emit)
    if dry_run:
        return show_dry_run(tried, as_json=as_json, quiet=quiet)
    deliver(found, as_json=as_json, reports=report, quiet=quiet, junit=junit)


def _check_together(
    *,
    aim: bool,
    several: bool,
    plan: bool,
    already_zero: bool,
    tolerance: float,
    max_drop: float | None,
    measured: bool,
    resume: bool,
    dry_run: bool,
) -> None:
    """UsageError where options contradict each other."""
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"--max-drop {max_drop:g}: should be 0 or more points of accuracy")
    if already_zero and (aim or max_drop is not None or resume):
        raise UsageError(
            "--already-zero only cuts what is dead: it goes without --ratio and other targets, --max-drop and --resume"
        )
    if not tolerance >= 0 or (tolerance and not already_zero):
        raise UsageError(f"--tolerance {tolerance:g}: should be 0 or more, and goes with --already-zero")
    if plan and (aim or already_zero):
        raise UsageError("--plan says what goes: it goes without --ratio and other targets, and --already-zero")
    if dry_run and (resume or already_zero):
        raise UsageError("--dry-run tries a whole run out: it goes without --resume and --already-zero")
    if dry_run and several:
        raise UsageError("--dry-run tries one target out, such as the one that removes most")
    if already_zero and measured:
        raise UsageError("--already-zero has no gates: it goes without --min-accuracy, --max-size and --max-latency")
