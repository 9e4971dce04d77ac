"""Dataclasses to plain JSON values and back, and the JSON Schema of what they become. Knows no result in particular.

A field is a key of its own name. `key`, `INLINE` and `OPTIONAL` say where the two differ:

    inputs: int = field(metadata=key("in"))                      # another key
    run: RunFacts = field(metadata=INLINE)                       # its keys stand among those of the whole
    latency: Latency | None = field(default=None, metadata=OPTIONAL)  # None: there is no such key
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What JSON can say."""
Document: TypeAlias = dict[str, Json]
"""A JSON object."""
T = TypeVar("T")
MAPPINGS = (Mapping, dict)

INLINE: Mapping[str, object] = {"inline": True}
"""The keys of this field's value stand in the place of the field."""
OPTIONAL: Mapping[str, object] = {"optional": True}
"""The key is left out where the value is None."""


def key(name: str) -> Mapping[str, object]:
    """The field's key, where it is no name that Python allows."""
    return {"key": name}


def to_json(value: object) -> Document:
    """A dataclass as a JSON object; NaN and infinities, which are no JSON, as null."""
    found: Document = {}
    record: Any = value  # typeshed's protocol of a dataclass is private
    for field in fields(record):
        item = getattr(record, field.name)
        if item is None and "optional" in field.metadata:
            continue
        plain = _plain(item)
        if "inline" in field.metadata:
            assert isinstance(plain, dict)
            found.update(plain)
        else:
            found[_key(field)] = plain
    return found


def from_json(kind: type[T], document: Mapping[str, Any]) -> T:
    """The dataclass that `to_json` gave this document for."""
    return _build(kind, dict(document))


def json_schema(kind: type) -> Document:
    """The JSON Schema (draft 2020-12) of the documents of a dataclass."""
    shared: dict[str, Json] = {}
    schema = _object(kind, shared)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": shared}


def _plain(value: Any) -> Json:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return to_json(value)


def _build(hint: Any, value: Any) -> Any:
    """The value of a field with this type hint."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if value is None else _build(next(a for a in arguments if a is not NoneType), value)
    if is_dataclass(hint):
        return _dataclass(hint, value)
    if hint is float and value is None:  # it was not finite
        return math.nan
    if origin is tuple:
        return tuple(_build(arguments[0], item) for item in value)
    if origin in MAPPINGS:
        return {name: _build(arguments[1], item) for name, item in value.items()}
    return value


def _dataclass(kind: Any, value: Mapping[str, Any]) -> Any:
    hints, rest, found = _hints(kind), dict(value), {}
    inline = None
    for field in fields(kind):
        if "inline" in field.metadata:
            inline = field
        elif _key(field) in rest:
            found[field.name] = _build(hints[field.name], rest.pop(_key(field)))
    if inline is not None:
        found[inline.name] = _build(hints[inline.name], rest)
    return kind(**found)


def _object(kind: Any, shared: dict[str, Json]) -> Document:
    """The schema of a dataclass; those of the dataclasses within go into `shared`."""
    properties: dict[str, Json] = {}
    required: list[str] = []
    others: Json = False
    for field, hint in _members(kind):
        schema = _schema(hint, shared)
        if "inline" in field.metadata and get_origin(hint) is not None:  # a mapping: any key
            assert isinstance(schema, dict)
            others = schema["additionalProperties"]
            continue
        if "optional" in field.metadata:
            schema = _schema(_without_none(hint), shared)
        else:
            required.append(_key(field))
        properties[_key(field)] = schema
    text = (kind.__doc__ or "").strip().splitlines()
    return {
        "type": "object",
        **({"description": text[0]} if text else {}),
        "properties": properties,
        "required": required,
        "additionalProperties": others,
    }


def _members(kind: Any) -> Iterator[tuple[Field[Any], Any]]:
    """Each field with its type hint; in the place of an inlined dataclass its own fields."""
    hints = _hints(kind)
    for field in fields(kind):
        if "inline" in field.metadata and is_dataclass(hints[field.name]):
            yield from _members(hints[field.name])
        else:
            yield field, hints[field.name]


def _schema(hint: Any, shared: dict[str, Json]) -> Json:
    origin, arguments = get_origin(hint), get_args(hint)
    simple: dict[Any, Document] = {
        str: {"type": "string"},
        bool: {"type": "boolean"},
        int: {"type": "integer"},
        float: {"type": ["number", "null"]},  # null: not finite
        NoneType: {"type": "null"},
    }
    if hint in simple:
        return simple[hint]
    if origin is Literal:
        return {"enum": list(arguments)}
    if is_dataclass(hint):
        name = str(getattr(hint, "__name__", hint))
        if name not in shared:
            shared[name] = None  # a dataclass that holds itself
            shared[name] = _object(hint, shared)
        return {"$ref": f"#/$defs/{name}"}
    if hint is object:  # whatever JSON can say
        return {}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(argument, shared) for argument in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], shared)}
    if origin in MAPPINGS:
        return {"type": "object", "additionalProperties": _schema(arguments[1], shared)}
    raise TypeError(f"no JSON Schema is known for {hint}")


def _without_none(hint: Any) -> Any:
    return Union[tuple(a for a in get_args(hint) if a is not NoneType)]  # noqa: UP007  # from a tuple


def _key(field: Field[Any]) -> str:
    return str(field.metadata.get("key", field.name))


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)
