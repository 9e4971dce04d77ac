"""Writes the reference of every key from the schema: docs/reference/recipe.md, and JSON Schema for editors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from extcon_cli.recipe.base import Section
from extcon_cli.recipe.document import Key, dotted
from extcon_cli.recipe.schema import Recipe
from extcon_cli.recipe.tree import section_of

_INTRODUCTION = """\
# Reference: recipe

Every key of a recipe with its default, its values and its meaning. Made by `extcon recipe schema --markdown`
from `extcon_cli/recipe/`; edit it there.

A recipe is a YAML file; what it leaves out has the default below. `--set prune.finetune.epochs=5` on the command
line changes one key; `--set data.normalize.mean.0=0.5` one entry of a list. Unknown keys, keys given twice, and
values of the wrong kind are errors. Numbers may be written as 3e-4; text needs no quotes; null stands for none.
"""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, for editors and other tools."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def reference() -> str:
    """Return the reference as Markdown: one table for each section, in the order of the schema."""
    return "\n".join([_INTRODUCTION, *_section(Recipe, (), json_schema())])


def _section(section: type[Section], key: Key, schema: dict[str, Any]) -> Iterator[str]:
    properties = schema["$defs"].get(section.__name__, schema)["properties"]
    inner = {name: section_of(field.annotation) for name, field in section.model_fields.items()}
    if key:
        yield f"## {dotted(key)}\n"
        yield f"{section.__doc__}\n"
    yield "| key | default | values | meaning |"
    yield "|---|---|---|---|"
    for name, field in section.model_fields.items():
        link = f"[`{name}`](#{dotted((*key, name)).replace('.', '')})" if inner[name] else f"`{name}`"
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        yield f"| {link} | {default} | {_values(properties[name], schema)} | {_cell(field.description or '')} |"
    yield ""
    for name, below in inner.items():
        if below is not None:
            yield from _section(below, (*key, name), schema)


def _default(value: Any) -> str:
    if isinstance(value, Section):
        return "below"
    return f"`{json.dumps(value)}`".replace('"', "")


def _values(schema: dict[str, Any], root: dict[str, Any]) -> str:
    """Say which values a JSON Schema allows, shortly: `number > 0`."""
    if "anyOf" in schema:
        return " or ".join(_values(option, root) for option in schema["anyOf"])
    if "$ref" in schema:
        return "section"
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema.get("type") == "array":
        return _list_values(schema, root)
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = [f"{sign} {schema[bound]:.12g}" for bound, sign in signs.items() if bound in schema]
    names = {"string": "text", "integer": "whole number", "boolean": "true, false", "object": "section"}
    kind = schema.get("type", "any")
    return " ".join([names.get(kind, kind), ", ".join(bounds)]).strip()


def _list_values(schema: dict[str, Any], root: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {_values(schema['prefixItems'][0], root)}"
    return f"list: {_values(schema['items'], root)}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
