"""`extcon verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from extcon_cli.cli import checks, resolve
from extcon_cli.cli import options as o
from extcon_cli.data import SPLITS
from extcon_cli.errors import GateError, UsageError


def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The checkpoint that should do the same.")],
    max_diff: Annotated[
        float, typer.Option(metavar="SHARE", parser=o.number, help="Bound, as a share of the largest output.")
    ] = 1e-5,
    data: Annotated[
        str | None, typer.Option("--data", metavar="SPLIT", help="Compare on test, validation or train data as well.")
    ] = None,
    recipe: o.RecipeOption = None,
    overrides: o.SetOption = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Where float32 is compared.", rich_help_panel=o.RUN)
    ] = "cpu",
    threads: o.ThreadsOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    report: o.ReportOption = None,
    junit: o.JunitOption = None,
    trust_code: o.TrustCodeOption = False,
    trust_pickle: o.TrustPickleOption = False,
    max_memory: o.MemoryOption = None,
) -> None:
    """Compare the outputs of two checkpoints: exit code 4 where they differ by more than the bound.

    Example: `extcon verify zeroed.pt zeroed.pruned.safetensors`

    Example: `extcon verify model.pt other.pt --max-diff 1e-3 --data test --json`
    """
    o.set_memory(max_memory)
    o.set_threads(threads)
    if not max_diff >= 0:
        raise UsageError(f"--max-diff {max_diff:g}: should be 0 or more")
    if data is not None and data not in SPLITS:
        raise UsageError(f"--data {data}: should be one of {', '.join(SPLITS)}")
    first, second = resolve.checkpoint_file(first), resolve.checkpoint_file(second)
    checks.check_reports(report)
    checks.check_junit(junit)
    resolved = [resolve.find_recipe("inspect", recipe, path, overrides) for path in (first, second)]

    from extcon_cli.cli.console import listening
    from extcon_cli.cli.results import deliver

    with listening(quiet=quiet) as emit:
        from extcon_cli.pipelines.verify import verify as run  # takes seconds: torch

        result = run(
            first,
            second,
            (resolved[0].recipe, resolved[1].recipe),
            max_diff=max_diff,
            split=data,
            device=device,
            trust=resolve.trust(trust_code, trust_pickle, *resolved),
            emit=emit,
        )
    deliver(result, as_json=as_json, reports=report, quiet=quiet, junit=junit)
    for gate in result.gates or ():
        if not gate.passed:
            raise GateError(gate.message, gate=gate.name)
