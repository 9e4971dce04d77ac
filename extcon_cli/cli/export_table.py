"""What `extcon export` prints: the files beside each other, and how far the exported one is from the checkpoint."""

from __future__ import annotations

from rich.console import Console

from extcon_cli.cli.tables import rows_table
from extcon_cli.report.document import exported, files, gaps, takes
from extcon_cli.report.results.export import ExportResult


def draw_export(console: Console, result: ExportResult) -> None:
    """All of it."""
    console.print(rows_table(files(result)))
    console.print()
    for sentence in takes(result):
        console.print(sentence)
    console.print(rows_table(gaps(result)))
    console.print(exported(result), style="bold")
    console.print(f"written to {result.output}", style="bold")
    if result.quantized is not None:
        console.print(f"written to {result.quantized.path}", style="bold")
