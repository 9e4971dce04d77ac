"""The report as Markdown tables, for pull requests and CI summaries. Without figures."""

from __future__ import annotations

from collections.abc import Sequence

from extcon_cli.report.document import (
    Document,
    candidates,
    comparison,
    differences,
    evidence,
    exactness,
    metrics,
    outcome,
    widths,
)
from extcon_cli.report.numbers import count, duration


def markdown(document: Document) -> str:
    """Whatever the document holds, as headings, tables and lists."""
    subject = document.get("checkpoint") or document.get("output") or ""
    parts = [f"## extcon {document['command']} `{subject}`"]
    if rows := comparison(document):
        parts.append(_table(("", "before", "after", "change"), rows))
    if rows := metrics(document):
        parts.append(_table(("metric", *(("validation",) if len(rows[0]) == 3 else ()), "value"), rows))
    if rows := differences(document):
        parts.append(_table(("outputs of the two", "largest difference", "share", "arg-max agrees", "samples"), rows))
    if sentences := exactness(document):
        parts.append("\n".join(f"- {sentence}" for sentence in sentences))
    if ways := candidates(document):
        parts.append(_table(("validation", "loss", "gain over going on"), ways))
    parts.extend(f"{said[:1].upper()}{said[1:]}." for said in (outcome(document), evidence(document)) if said)
    if document["command"] == "inspect":
        shown = [
            (layer["name"], layer["kind"], _width(layer["in"]), _width(layer["out"]), count(layer["params"]))
            for layer in document["layers"]
        ]
        parts.append(_table(("layer", "kind", "in", "out", "parameters"), shown))
    elif layers := widths(document):
        rows = [(layer["name"], layer["kind"], str(layer["before"]), str(layer["after"])) for layer in layers]
        parts.append("### Widths\n\n" + _table(("layer", "kind", "before", "after"), rows))
    if frozen := document.get("frozen"):
        parts.append("### What stays\n\n" + "\n".join(f"- `{item['group']}`: {item['reason']}" for item in frozen))
    if seconds := document.get("seconds"):
        parts.append(", ".join(f"{name} {duration(value)}" for name, value in seconds.items()))
    if document.get("output"):
        parts.append(f"Written to `{document['output']}`, extcon {document['version']}.")
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _width(value: int | None) -> str:
    return "" if value is None else str(value)
