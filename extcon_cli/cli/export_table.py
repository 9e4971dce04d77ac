"""What `extcon export` prints: the files beside each other, and how far the exported one is from the checkpoint."""

from __future__ import annotations

from rich.console import Console

from extcon_cli.cli.tables import new_table
from extcon_cli.report.document import exported, files, gaps, takes
from extcon_cli.report.export_results import ExportResult


def draw_export(console: Console, result: ExportResult) -> None:
    """All of it."""
    head, *rows = files(result)
    table = new_table(*(f">{name}" if place else name for place, name in enumerate(head)))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()
    for sentence in takes(result):
        console.print(sentence)
    gap = new_table(
        "outputs of the two", ">largest difference", ">of the largest output", ">arg-max agrees", ">samples"
    )
    for row in gaps(result.differences):
        gap.add_row(*row)
    console.print(gap)
    console.print(exported(result), style="bold")
    console.print(f"written to {result.output}", style="bold")
    if result.quantized is not None:
        console.print(f"written to {result.quantized.path}", style="bold")
