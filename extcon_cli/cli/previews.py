"""What would be done: plans and dry runs, as tables or one JSON document on stdout."""

from __future__ import annotations

import json

from rich.table import Table

from extcon_cli.cli.results import new_console
from extcon_cli.cli.tables import new_table
from extcon_cli.report.document import timing
from extcon_cli.report.numbers import count, factor
from extcon_cli.report.results.previews import DryRunResult, PlanResult
from extcon_cli.report.results.records import Size
from extcon_cli.report.serialise import to_json


def show_plan(result: PlanResult, *, as_json: bool, quiet: bool = False) -> None:
    """Print a plan; one line of it where `quiet`."""
    if as_json:
        print(json.dumps(to_json(result), indent=2, allow_nan=False))
        return
    chosen = f"{result.filters} of {result.prunable} filters would go ({result.asked})"
    if quiet:
        return print(f"{result.output}: {chosen}")
    console = new_console()
    groups = new_table("channels of", ">number", ">go", ">sensitivity", "")
    for group in result.groups:
        rise = "" if group.sensitivity is None else f"{group.sensitivity:+.3g}"
        groups.add_row(group.name, str(group.channels), str(len(group.remove)), rise, group.reason or "")
    console.print(_sizes(result.before, result.after))
    if said := timing(result.latency):
        console.print(said)
    console.print()
    console.print(groups)
    if any(group.sensitivity is not None for group in result.groups):
        console.print("sensitivity: by how much the loss rises where the lower half of these channels is silent")
    console.print()
    console.print(f"{chosen}; nothing was trained")
    console.print(f"written to {result.output}: extcon prune {result.checkpoint} --plan {result.output}", style="bold")


def show_dry_run(result: DryRunResult, *, as_json: bool, quiet: bool = False) -> None:
    """Print what a command would do; one line of it where `quiet`."""
    if as_json:
        print(json.dumps(to_json(result), indent=2, allow_nan=False))
        return
    would = f"{result.tried} would write {result.output}; nothing was written"
    if quiet:
        return print(would)
    console = new_console()
    if result.before is not None and result.after is not None and result.before != result.after:
        console.print(_sizes(result.before, result.after))
        console.print()
    total = sum(result.samples.values())
    read = "all of them were read" if result.read == total else f"{result.read} of {total} were read"
    console.print(f"data: {', '.join(f'{n} {name}' for name, n in result.samples.items())} samples; {read}")
    console.print(f"training steps on {result.device}: {', '.join(f'{n} {name}' for name, n in result.steps.items())}")
    console.print(would, style="bold")


def _sizes(before: Size, after: Size) -> Table:
    rows = new_table("", ">before", ">after", ">")
    for name, old, new, unit in (
        ("parameters", before.params, after.params, ""),
        ("MACs", before.macs, after.macs, ""),
        ("size", before.bytes, after.bytes, "B"),
    ):
        rows.add_row(name, count(old, unit), count(new, unit), factor(old, new))
    return rows
