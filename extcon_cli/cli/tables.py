"""The look of every table on the terminal. It knows no result."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table


def new_table(*columns: str) -> Table:
    """A table without lines; '>' before a heading aligns its column to the right."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table


def rows_table(rows: Sequence[Sequence[str]]) -> Table:
    """A table of a heading and rows: all columns but the first are figures, aligned to the right and never broken."""
    head, *others = rows
    table = new_table(*(f">{name}" if place else name for place, name in enumerate(head)))
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.no_wrap = True
    for row in others:
        table.add_row(*row)
    return table
