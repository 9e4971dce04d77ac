"""What a command leaves: tables or one JSON document on stdout, reports, the summary of a CI job."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extcon_cli.cli.export_table import draw_export
from extcon_cli.cli.streams import shows
from extcon_cli.cli.tables import new_table, rows_table
from extcon_cli.processes import launched
from extcon_cli.report.document import (
    candidates,
    caution,
    certified,
    comparison,
    exactness,
    gaps,
    gate_rows,
    moves,
    outcome,
    signs,
    timing,
    widths,
)
from extcon_cli.report.junit import write_junit
from extcon_cli.report.line import line
from extcon_cli.report.numbers import count, duration, figure, percent
from extcon_cli.report.results import CommandResult
from extcon_cli.report.results.bypass import BypassResult, Diagnosis
from extcon_cli.report.results.compare import CompareResult
from extcon_cli.report.results.export import ExportResult
from extcon_cli.report.results.inspect import InspectResult, VerifyResult
from extcon_cli.report.results.prune import PruneResult, SweepResult
from extcon_cli.report.results.records import LayerWidth, ModelStats
from extcon_cli.report.results.train import EvaluateResult, TrainResult
from extcon_cli.report.serialise import to_json
from extcon_cli.report.side_by_side import compared, measured_on, sweep_outcome, sweep_rows
from extcon_cli.report.write import summary, write

WIDTH = 100
"""Columns where stdout is no terminal."""


def deliver(
    result: CommandResult,
    *,
    as_json: bool,
    reports: Sequence[Path] | None = None,
    quiet: bool = False,
    junit: Path | None = None,
) -> None:
    """Print the result (one line of it where `quiet`), write the reports and what CI servers show.

    Of several processes the first one does.
    """
    if launched().place:
        return
    for path in reports or ():
        write(result, path)
    if junit is not None:
        write_junit(junit, result)
    if job := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(job, "a", encoding="utf-8") as file:
                file.write(summary(result) + "\n")
        except OSError as error:  # the job is not to fail for it
            print(f"extcon: warning: no summary in {job}: {error.strerror}", file=sys.stderr)
    if as_json:
        if isinstance(result, PruneResult | BypassResult | TrainResult):
            result = replace(result, history=None)  # thousands of points, for the figures of a report
        print(json.dumps(to_json(result), indent=2, allow_nan=False))
    elif quiet:
        print(line(result))
    else:
        _draw(new_console(), result)


def new_console() -> Console:
    """Where results are drawn: stdout, as wide as the terminal."""
    live = sys.stdout.isatty()
    return Console(markup=False, highlight=False, width=None if live else WIDTH, soft_wrap=not live)


def _draw(console: Console, result: CommandResult) -> None:
    if warning := caution(result):
        console.print(f"caution: {warning}", style="yellow")
    if isinstance(result, PruneResult):
        _prune(console, result)
    elif isinstance(result, BypassResult):
        _bypass(console, result)
    elif isinstance(result, TrainResult):
        _train(console, result)
    elif isinstance(result, EvaluateResult):
        _evaluate(console, result)
    elif isinstance(result, InspectResult):
        _inspect(console, result)
    elif isinstance(result, ExportResult):
        draw_export(console, result)
    elif isinstance(result, CompareResult):
        console.print(rows_table(compared(result)))
        console.print(measured_on(result))
    elif isinstance(result, SweepResult):
        console.print(rows_table(sweep_rows(result)))
        console.print()
        for sentence in sweep_outcome(result):
            console.print(sentence)
    elif isinstance(result, VerifyResult):
        _verify(console, result)
    if rows := gate_rows(result):
        gates = new_table("gate", "", "measured")
        for row in rows:
            gates.add_row(*row)
        console.print()
        console.print(gates)


def _prune(console: Console, result: PruneResult) -> None:
    console.print()
    console.print(_comparison(result.before, result.after))
    console.print()
    for sentence in exactness(result):
        console.print(sentence)
    if said := timing(result.latency):
        console.print(said)
    console.print()
    console.print(_widths(widths(result.layers), "█░" if shows("█░", sys.stdout) else "#."))
    console.print()
    console.print(written(result), style="bold")
    for done in result.exported or ():
        console.print()
        draw_export(console, done)


def _bypass(console: Console, result: BypassResult) -> None:
    console.print()
    _diagnosis(console, result.diagnosis)
    table = new_table("validation loss", ">", ">against going on")
    for row in candidates(result):
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print()
    console.print(_comparison(result.before, result.after))
    console.print()
    for sentence in moves(result):
        console.print(sentence)
    console.print(outcome(result), style="bold")
    console.print(written(result), style="bold")


def _diagnosis(console: Console, found: Diagnosis) -> None:
    table = new_table("sign", "found", "says")
    for row in signs(found):
        table.add_row(*row)
    console.print(table)
    console.print()
    console.print(found.verdict, style="bold")


def written(result: PruneResult | BypassResult | TrainResult) -> str:
    """Where the result is; nowhere where a gate has failed."""
    if any(not gate.passed for gate in result.gates or ()):
        return "nothing was written"
    return f"written to {result.run.output}"


def _comparison(before: ModelStats, after: ModelStats) -> Table:
    table = new_table("", ">before", ">after", ">")
    for row in comparison(before, after):
        table.add_row(*row)
    return table


def _widths(layers: Sequence[LayerWidth], signs: str) -> Table:
    """A bar of `signs[0]` for what is left of the width before, `signs[1]` for what went."""
    table = new_table("layer", "", ">before", ">after", "")
    widest = max((layer.before or 0 for layer in layers), default=1)
    for layer in layers:
        full = max(1, round(24 * (layer.before or 0) / widest))
        kept = max(1, round(24 * (layer.after or 0) / widest))
        bar = Text(signs[0] * kept, style="cyan").append(signs[1] * (full - kept), style="dim")
        table.add_row(layer.name, Text(layer.kind, style="dim"), str(layer.before), str(layer.after), bar)
    return table


def _train(console: Console, result: TrainResult) -> None:
    table = new_table("", ">validation", ">test")
    validation = result.validation or {}
    for name, value in result.metrics.items():
        shown = figure(name, validation[name]) if name in validation else "-"
        table.add_row(name, shown, figure(name, value))
    console.print()
    console.print(table)
    console.print()
    console.print(f"{count(result.params)} parameters, {duration(result.run.seconds['total'])}")
    console.print(written(result), style="bold")


def _evaluate(console: Console, result: EvaluateResult) -> None:
    table = new_table(f"{result.split}, {result.samples} samples", ">")
    for name, value in result.metrics.items():
        table.add_row(name, figure(name, value))
    console.print(table)


def _inspect(console: Console, result: InspectResult) -> None:
    console.print(
        f"{result.arch or result.checkpoint}, input {result.inputs or list(result.input_shape)}", style="bold"
    )
    costs = result.size
    size = f"{count(costs.params)} parameters, {count(costs.macs)} MACs, {count(costs.bytes, 'B')}"
    console.print(f"{size} ({count(result.file_bytes, 'B')} on disk)")
    console.print()
    table = new_table("layer", "", ">in", ">out", ">parameters", ">MACs")
    for layer in result.layers:
        sides = ["" if side is None else str(side) for side in (layer.inputs, layer.outputs)]
        table.add_row(layer.name, Text(layer.kind, style="dim"), *sides, count(layer.params), count(layer.macs))
    console.print(table)
    console.print()
    groups = new_table("channels of", ">number", ">dead", ">params each", "can they go?")
    for group in result.groups:
        verdict = Text("yes", style="green") if group.prunable else Text(f"no: {group.reason}", style="dim")
        groups.add_row(group.name, str(group.channels), str(group.dead), count(group.params_per_channel), verdict)
    console.print(groups)
    if result.unreached:
        console.print(f"no input reaches {', '.join(result.unreached)}: what may feed it stays (model.examples)")
    if result.diagnosis is not None:
        console.print()
        _diagnosis(console, result.diagnosis)
    console.print(f"{percent(result.removable_share)} of the parameters are in channels that can go")


def _verify(console: Console, result: VerifyResult) -> None:
    console.print(rows_table(gaps(result)))
    for sentence in certified(result):
        console.print(sentence)
    verdict = "within" if result.verdict else "beyond"
    console.print(f"{verdict} {result.max_diff:g} of the largest output", style="bold")
