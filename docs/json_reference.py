"""docs/reference/json.md from the types of the results; make_reference.py calls it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from python_reference import meanings

from extcon_cli.report import results
from extcon_cli.report.serialise import json_schema

TYPES: dict[str, type] = {
    name: kind
    for module in ("", *(f".{one.name}" for one in pkgutil.iter_modules(results.__path__)))
    for name, kind in vars(importlib.import_module(f"{results.__name__}{module}")).items()
    if isinstance(kind, type) and is_dataclass(kind)
}
"""The dataclasses of all results, by name."""

INTRODUCTION = """\
`--json` prints one document on stdout and nothing else; `--report FILE.json` writes the same document with the
`history` of the run. The keys below are fixed; a new version of the documents gets another `schema`.

Shares and accuracies lie between 0 and 1, differences of outputs are shares of the largest output unless a key says
otherwise, times are seconds. A number that is not finite is null.
"""


def json_page(made: str) -> str:
    """A section for each command, then one for each part that documents share."""
    lines = ["# Reference: JSON documents", "", made, INTRODUCTION]
    parts: dict[str, Mapping[str, Any]] = {}
    for kind in (*results.COMMANDS.values(), results.Refused):
        schema: Any = json_schema(kind)
        parts.update(schema["$defs"])
        (title,) = schema["properties"]["command"].get("enum", ["any command, refused"])
        said = [schema["description"], ""] if title not in results.COMMANDS else []
        lines += [f"## {title}", "", *said, *table(kind, schema)]
    for name, schema in sorted(parts.items()):
        lines += [f"## {name}", "", f"{schema.get('description', '')}", "", *table(TYPES[name], schema)]
    return "\n".join(lines).rstrip() + "\n"


def table(kind: type, schema: Mapping[str, Any]) -> Iterator[str]:
    """A row for each key: its values and what it means."""
    said = all_meanings(kind)
    yield "| key | value | meaning |"
    yield "|---|---|---|"
    for key, value in schema["properties"].items():
        optional = "" if key in schema["required"] else " (may be left out)"
        yield f"| `{key}` | {shown(value)}{optional} | {sentence(said.get(key, ''))} |"
    if isinstance(others := schema["additionalProperties"], dict):
        yield f"| any other | {shown(others)} | |"
    yield ""


def sentence(text: str) -> str:
    """A meaning as a cell of a table, in JSON's words."""
    text = text.replace("|", "\\|").replace("None", "null")
    return text[:1].upper() + text[1:]


def all_meanings(kind: type) -> dict[str, str]:
    """Of the class, those it inherits from, and those whose keys stand among its own."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            found |= meanings(base)
    hints = get_type_hints(kind)
    for field in fields(kind):  # type: ignore[arg-type]
        if "inline" in field.metadata and is_dataclass(hints[field.name]):
            found |= all_meanings(hints[field.name])
        elif field.name in found:
            found[str(field.metadata.get("key", field.name))] = found[field.name]
    return found


def shown(schema: Mapping[str, Any]) -> str:
    """The values that a schema allows, shortly."""
    if "$ref" in schema:
        name = schema["$ref"].split("/")[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        options = dict.fromkeys(shown(option) for option in schema["anyOf"])
        return " or ".join(options)
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {shown(schema['items'])}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"object of {shown(inner)}" if isinstance(inner, dict) and inner else "object"
    names = {"string": "text", "integer": "whole number", "boolean": "true, false"}
    return "number" if isinstance(kind, list) else names.get(kind, str(kind))
