"""What would be done: plans and dry runs, as tables or one JSON document on stdout."""

from __future__ import annotations

import json

from extcon_cli.cli.results import new_console
from extcon_cli.cli.tables import new_table
from extcon_cli.report.numbers import count, factor
from extcon_cli.report.results import PlanResult
from extcon_cli.report.serialise import to_json


def show_plan(result: PlanResult, *, as_json: bool) -> None:
    """Print a plan."""
    if as_json:
        print(json.dumps(to_json(result), indent=2, allow_nan=False))
        return
    console, sizes = new_console(), new_table("", ">before", ">after", ">")
    for name, old, new, unit in (
        ("parameters", result.before.params, result.after.params, ""),
        ("MACs", result.before.macs, result.after.macs, ""),
        ("size", result.before.bytes, result.after.bytes, "B"),
    ):
        sizes.add_row(name, count(old, unit), count(new, unit), factor(old, new))
    groups = new_table("channels of", ">number", ">go", ">sensitivity", "")
    for group in result.groups:
        rise = "" if group.sensitivity is None else f"{group.sensitivity:+.3g}"
        groups.add_row(group.name, str(group.channels), str(len(group.remove)), rise, group.reason or "")
    console.print(sizes)
    console.print()
    console.print(groups)
    if any(group.sensitivity is not None for group in result.groups):
        console.print("sensitivity: by how much the loss rises where the lower half of these channels is silent")
    console.print()
    console.print(f"{result.filters} of {result.prunable} filters would go ({result.asked}); nothing was trained")
    console.print(f"written to {result.output}: extcon prune {result.checkpoint} --plan {result.output}", style="bold")
