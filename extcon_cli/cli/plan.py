"""`extcon plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from extcon_cli.checkpoint.ultralytics.look import is_ultralytics
from extcon_cli.cli import checks, resolve
from extcon_cli.cli import options as o
from extcon_cli.errors import UsageError


def plan(
    checkpoint: o.Checkpoint,
    ratio: o.RatioOption = None,
    macs: o.MacsOption = None,
    params: o.ParamsOption = None,
    size: o.SizeOption = None,
    latency: o.LatencyOption = None,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N", parser=o.whole, help="Training samples for the sensitivity of each layer; 0: without it."
        ),
    ] = 64,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", metavar=o.FLAG, help="Do not measure how fast the models are.")
    ] = False,
    runtime: o.RuntimeOption = None,
    batch_size: o.BatchSizeOption = None,
    out: o.OutOption = None,
    data: o.DataOption = None,
    recipe: o.RecipeOption = None,
    overrides: o.SetOption = None,
    seed: o.SeedOption = None,
    device: o.DeviceOption = None,
    threads: o.ThreadsOption = None,
    force: o.ForceOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    trust_code: o.TrustCodeOption = False,
    trust_pickle: o.TrustPickleOption = False,
    max_memory: o.MemoryOption = None,
) -> None:
    """Say what prune would remove and what would be left, without training: seconds.

    Writes CKPT.plan.json, which `extcon prune CKPT --plan CKPT.plan.json` takes, edited or not.

    Example: `extcon plan model.pt --macs 0.5`

    Of a checkpoint of Ultralytics neither sensitivities nor latencies are measured.

    Example: `extcon plan model.pt --ratio 0.3 --out mine.json`, then `extcon prune model.pt --plan mine.json`
    """
    o.set_memory(max_memory)
    o.set_threads(threads)
    aim = resolve.aim(ratio=ratio, macs=macs, params=params, size=size, latency=latency)
    timing = resolve.timing(runtime, batch_size)
    if samples < 0:
        raise UsageError(f"--samples {samples}: should be 0 or more")
    checkpoint = resolve.checkpoint_file(checkpoint)
    output = out or checkpoint.with_name(f"{checkpoint.stem}.plan.json")
    theirs = is_ultralytics(checkpoint)
    kind = resolve.data_kind(data, theirs=theirs)
    resolved = resolve.find_recipe("prune", recipe, checkpoint, overrides, kind, **aim, **timing, seed=seed)
    checks.check_output(output, force=force, resume=False, suffixes=[".json"])
    checks.check_data(resolved, checkpoint)

    from extcon_cli.cli.console import listening
    from extcon_cli.cli.previews import show_plan

    trust = resolve.trust(trust_code, trust_pickle, resolved)
    with listening(quiet=quiet) as emit:
        if theirs:
            from extcon_cli.pipelines.ultralytics_previews import plan_ultralytics  # takes seconds: torch

            result = plan_ultralytics(checkpoint, resolved.recipe, output=output, device=device, trust=trust, emit=emit)
        else:
            from extcon_cli.pipelines.plan import plan as run

            result = run(
                checkpoint,
                resolve.complete(resolved, checkpoint, kind, overrides, trust, emit),
                output=output,
                samples=samples,
                latency=not no_latency,
                device=device,
                trust=trust,
                emit=emit,
            )
    show_plan(result, as_json=as_json, quiet=quiet)
