"""The keys of every document are a contract: this is all of them, and a change here is a change for users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from extcon_cli.report.results import COMMANDS
from extcon_cli.report.serialise import json_schema

EXPECTED = Path(__file__).with_name("keys.txt").read_text().splitlines()


def keys(schema: Mapping[str, Any], shared: Mapping[str, Any], place: str) -> Iterator[str]:
    """Every key below a schema as a dotted path; `?` may be left out, `*` is any key, `[]` an item of a list."""
    if "$ref" in schema:
        yield from keys(shared[schema["$ref"].rpartition("/")[2]], shared, place)
    for part in schema.get("anyOf", ()):
        yield from keys(part, shared, place)
    if "items" in schema:
        yield from keys(schema["items"], shared, f"{place}[]")
    for key, value in schema.get("properties", {}).items():
        name = f"{place}.{key}" + ("" if key in schema["required"] else "?")
        yield name
        yield from keys(value, shared, name)
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from keys(schema["additionalProperties"], shared, f"{place}.*")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_keys_are_those_that_were_promised(command: str) -> None:
    schema: Any = json_schema(COMMANDS[command])
    assert list(keys(schema, schema["$defs"], command)) == [k for k in EXPECTED if k.startswith(f"{command}.")]
