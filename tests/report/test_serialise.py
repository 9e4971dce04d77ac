"""Results become JSON and come back; their schema says what they become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest

from extcon_cli.report.results.records import ModelStats, PhaseRecord, Size, ValidationCurve
from extcon_cli.report.serialise import INLINE, OPTIONAL, from_json, json_schema, key, to_json


@dataclass(frozen=True)
class Inner:
    """Some sizes."""

    width: int
    extra: Mapping[str, tuple[float, ...]] = field(metadata=INLINE)


@dataclass(frozen=True)
class Outer:
    """One of everything. The second sentence is for readers of the code."""

    inputs: int | None = field(metadata=key("in"))
    kind: Literal["a", "b"]
    inner: Inner
    several: tuple[Inner, ...]
    size: Size = field(metadata=INLINE)
    by_name: Mapping[str, Inner | None]
    whatever: Mapping[str, object]
    note: str | None = field(default=None, metadata=OPTIONAL)


def outer(note: str | None = None) -> Outer:
    inner = Inner(3, {"loss": (1.0, 2.0)})
    return Outer(
        None, "a", inner, (inner, inner), Size(1, 2, 3), {"x": inner, "y": None}, {"deep": [1, {"a": 2}]}, note
    )


@pytest.mark.parametrize("note", [None, "said"])
def test_a_value_comes_back(note: str | None) -> None:
    assert from_json(Outer, to_json(outer(note))) == outer(note)


def test_keys_are_those_that_the_fields_name() -> None:
    document = to_json(outer())
    assert list(document) == [
        "in", "kind", "inner", "several", "params", "macs", "bytes", "by_name", "whatever",
    ]  # fmt: skip
    assert document["inner"] == {"width": 3, "loss": [1.0, 2.0]}
    assert to_json(outer("said"))["note"] == "said"


def test_what_is_no_number_is_null() -> None:
    record = PhaseRecord(
        "train", (1, 2), (math.nan, math.inf), validation=ValidationCurve((2,), {"loss": (-math.inf,)})
    )
    assert to_json(record) == {
        "phase": "train", "steps": [1, 2], "loss": [None, None], "validation": {"steps": [2], "loss": [None]},
    }  # fmt: skip


def test_the_schema_says_keys_types_and_what_may_be_missing() -> None:
    schema = json_schema(Outer)
    assert schema["description"] == "One of everything. The second sentence is for readers of the code."
    properties = schema["properties"]
    assert properties["in"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert properties["kind"] == {"enum": ["a", "b"]}
    assert properties["params"] == {"type": "integer"}
    assert properties["note"] == {"type": "string"}
    assert properties["several"] == {"type": "array", "items": {"$ref": "#/$defs/Inner"}}
    assert "note" not in schema["required"]
    assert set(schema["required"]) == set(properties) - {"note"}
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Inner"]["additionalProperties"] == {
        "type": "array", "items": {"type": ["number", "null"]},
    }  # fmt: skip


def test_a_type_without_a_schema_is_refused() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: complex

    with pytest.raises(TypeError, match="complex"):
        json_schema(Odd)


def test_a_size_stands_among_the_keys_of_its_model() -> None:
    assert to_json(ModelStats({"loss": 1.0}, Size(1, 2, 3))) == {
        "metrics": {"loss": 1.0}, "params": 1, "macs": 2, "bytes": 3,
    }  # fmt: skip
