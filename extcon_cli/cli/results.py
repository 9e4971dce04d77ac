"""What a command leaves: tables or one JSON document on stdout, reports, the summary of a CI job."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extcon_cli.report.document import candidates, comparison, differences, evidence, exactness, outcome, widths
from extcon_cli.report.numbers import count, duration, figure, percent
from extcon_cli.report.write import finite, summary, write

WIDTH = 100
"""Columns where stdout is no terminal."""


def deliver(document: Mapping[str, Any], *, as_json: bool, reports: Sequence[Path] | None = None) -> None:
    """Print the result, write the reports, and append to the summary of a GitHub Actions job."""
    for path in reports or ():
        write(document, path)
    if job := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(job, "a", encoding="utf-8") as file:
            file.write(summary(document) + "\n")
    if as_json:
        shown = {key: value for key, value in document.items() if key != "history"}
        print(json.dumps(finite(shown), indent=2, allow_nan=False))
    else:
        console = Console(
            highlight=False, width=None if sys.stdout.isatty() else WIDTH, soft_wrap=not sys.stdout.isatty()
        )
        _DRAW[document["command"]](console, document)


def _prune(console: Console, document: Mapping[str, Any]) -> None:
    table = _table("", ">before", ">after", ">")
    for row in comparison(document):
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print()
    for sentence in exactness(document):
        console.print(sentence)
    console.print()
    console.print(_widths(widths(document)))
    console.print()
    console.print(f"written to {document['output']}", style="bold")


def _bypass(console: Console, document: Mapping[str, Any]) -> None:
    table = _table("validation loss", ">", ">against going on")
    for way in candidates(document):
        table.add_row(*way)
    console.print()
    console.print(table)
    console.print()
    compared = _table("", ">before", ">after", ">")
    for row in comparison(document):
        compared.add_row(*row)
    console.print(compared)
    console.print()
    for sentence in exactness(document):
        console.print(sentence)
    console.print(outcome(document), style="bold")
    console.print(f"written to {document['output']}", style="bold")


def _widths(layers: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("layer", "", ">before", ">after", "")
    widest = max((layer["before"] for layer in layers), default=1)
    for layer in layers:
        full = max(1, round(24 * layer["before"] / widest))
        kept = max(1, round(24 * layer["after"] / widest))
        bar = Text("█" * kept, style="cyan").append("░" * (full - kept), style="dim")
        table.add_row(layer["name"], Text(layer["kind"], style="dim"), str(layer["before"]), str(layer["after"]), bar)
    return table


def _train(console: Console, document: Mapping[str, Any]) -> None:
    table = _table("", ">validation", ">test")
    validation = document.get("validation") or {}
    for name, value in document["metrics"].items():
        shown = figure(name, validation[name]) if name in validation else "-"
        table.add_row(name, shown, figure(name, value))
    console.print()
    console.print(table)
    console.print()
    console.print(f"{count(document['params'])} parameters, {duration(document['seconds']['total'])}")
    console.print(f"written to {document['output']}", style="bold")


def _evaluate(console: Console, document: Mapping[str, Any]) -> None:
    table = _table(f"{document['split']}, {document['samples']} samples", ">")
    for name, value in document["metrics"].items():
        table.add_row(name, figure(name, value))
    console.print(table)


def _inspect(console: Console, document: Mapping[str, Any]) -> None:
    console.print(f"{document['arch'] or document['checkpoint']}, input {list(document['input_shape'])}", style="bold")
    size = f"{count(document['params'])} parameters, {count(document['macs'])} MACs, {count(document['bytes'], 'B')}"
    console.print(f"{size} ({count(document['file_bytes'], 'B')} on disk)")
    console.print()
    table = _table("layer", "", ">in", ">out", ">parameters", ">MACs")
    for layer in document["layers"]:
        sides = ["" if layer[side] is None else str(layer[side]) for side in ("in", "out")]
        table.add_row(
            layer["name"], Text(layer["kind"], style="dim"), *sides, count(layer["params"]), count(layer["macs"])
        )
    console.print(table)
    console.print()
    groups = _table("channels of", ">number", ">dead", ">params each", "can they go?")
    for group in document["groups"]:
        verdict = Text("yes", style="green") if group["prunable"] else Text(f"no: {group['reason']}", style="dim")
        groups.add_row(
            group["name"], str(group["channels"]), str(group["dead"]), count(group["params_per_channel"]), verdict
        )
    console.print(groups)
    if sentence := evidence(document):
        console.print(sentence)
    console.print(f"{percent(document['removable_share'])} of the parameters are in channels that can go")


def _verify(console: Console, document: Mapping[str, Any]) -> None:
    table = _table("outputs of the two", ">largest difference", ">of the largest output", ">arg-max agrees", ">samples")
    for row in differences(document):
        table.add_row(*row)
    console.print(table)
    if document["certificate"] is not None:
        console.print(f"the certificate of {document['other']} is of {document['certificate']}")
    verdict = "within" if document["verdict"] else "beyond"
    console.print(f"{verdict} {document['max_diff']:g} of the largest output", style="bold")


_DRAW = {
    "bypass": _bypass,
    "prune": _prune,
    "train": _train,
    "evaluate": _evaluate,
    "inspect": _inspect,
    "verify": _verify,
}


def _table(*columns: str) -> Table:
    """A table without lines; '>' before a heading aligns its column to the right."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table
