"""The report as Markdown tables, for pull requests and CI summaries. Without figures."""

from __future__ import annotations

from collections.abc import Sequence

from extcon_cli.report.document import caution, gate_rows, run_facts, sections, subject
from extcon_cli.report.numbers import count, duration
from extcon_cli.report.results import CommandResult


def markdown(result: CommandResult) -> str:
    """Whatever there is to show of a result, as headings, tables and lists."""
    shown, run = sections(result), run_facts(result)
    parts = [f"## extcon {result.command} `{subject(result)}`"]
    if warning := caution(result):
        parts.append(f"**Caution: {warning}.**")
    if gates := gate_rows(result):
        parts.append(table(("gate", "", "measured"), gates))
    if rows := shown.comparison:
        parts.append(table(("", "before", "after", "change"), rows))
    if rows := shown.metrics:
        parts.append(table(("metric", *(("validation",) if len(rows[0]) == 3 else ()), "value"), rows))
    if rows := shown.differences:
        parts.append(table(rows[0], rows[1:]))
    if rows := shown.files:
        parts.append(table(rows[0], rows[1:]))
    if shown.exactness:
        parts.append("\n".join(f"- {sentence}" for sentence in shown.exactness))
    if rows := shown.candidates:
        parts.append(table(("validation", "loss", "gain over going on"), rows))
    if rows := shown.signs:
        parts.append("### Diagnosis\n\n" + table(("sign", "found", "says"), rows))
    parts.extend(f"{said[:1].upper()}{said[1:]}." for said in (shown.evidence, shown.outcome) if said)
    if shown.layers:
        rows = [
            (layer.name, layer.kind, _width(layer.inputs), _width(layer.outputs), count(layer.params))
            for layer in shown.layers
        ]
        parts.append(table(("layer", "kind", "in", "out", "parameters"), rows))
    if shown.widths:
        rows = [(layer.name, layer.kind, str(layer.before), str(layer.after)) for layer in shown.widths]
        parts.append("### Widths\n\n" + table(("layer", "kind", "before", "after"), rows))
    if shown.frozen:
        parts.append("### What stays\n\n" + "\n".join(f"- `{item.group}`: {item.reason}" for item in shown.frozen))
    if shown.unreached:
        parts.append("### What no input reaches\n\n" + ", ".join(f"`{name}`" for name in shown.unreached))
    if run is not None:
        parts.append(", ".join(f"{name} {duration(value)}" for name, value in run.seconds.items()))
        refused = any(not gate.passed for gate in result.gates or ())
        parts.append(f"{'Nothing was written' if refused else f'Written to `{run.output}`'}, extcon {result.version}.")
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _width(value: int | None) -> str:
    return "" if value is None else str(value)
