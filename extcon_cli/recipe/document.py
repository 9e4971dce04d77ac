"""Reads YAML into plain values with the line of each key, and writes it. It does not know what a recipe is.

The rules are those of YAML 1.2, which people expect: 3e-4 is a number, `no` and `12:30` are text, only true
and false are true and false. A key given twice is a problem. Aliases are refused: no file grows when read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.nesting import text_too_deep, too_deep

Key = tuple[str | int, ...]
"""The way to a value from the top: ("data", "normalize", "mean", 0)."""


def dotted(key: Key) -> str:
    """Write a key as people do, and as `--set` reads it: data.normalize.mean.0."""
    return ".".join(map(str, key))


@dataclass(frozen=True)
class Place:
    """Where something was said: a file with its line (from 1), or `--set key`."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with its place and its key."""

    place: Place
    key: Key
    text: str

    def __str__(self) -> str:
        place, key = str(self.place), dotted(self.key)
        return f"{place}: {self.text}" if not key or place.endswith(f" {key}") else f"{place}: {key}: {self.text}"


@dataclass
class Document:
    """Plain values, where each of them stands, and what was wrong with them so far."""

    source: str
    values: Any
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, key: Key) -> Place:
        """Return the place of `key`, or else of the nearest section around it."""
        return next(
            (self.places[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.places),
            Place(self.source),
        )

    def complain(self, key: Key, text: str) -> None:
        """Note a problem at `key`."""
        self.problems.append(Problem(self.place(key), key, text))


_SPOILT = object()  # stands for a value with a problem of its own, until its key is left out
_TAG = "tag:yaml.org,2002:"
_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)


def _use_yaml_1_2(resolver: type[yaml.resolver.BaseResolver]) -> None:
    for name, pattern, first in _RESOLVERS:
        resolver.add_implicit_resolver(_TAG + name, re.compile(rf"^(?:{pattern})$"), list(first))


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own attribute, without YAML 1.1

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            text = f"aliases such as *{event.anchor} are not supported, write the value out"
            raise yaml.composer.ComposerError(None, None, text, event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML writes these line breaks of Unicode in a way that it does not read back, unless in double quotes
        return self.represent_scalar(_TAG + "str", data, style='"' if set(data) & set("\x85\u2028\u2029") else None)


_Dumper.add_representer(str, _Dumper.represent_str)
_use_yaml_1_2(_Loader)
_use_yaml_1_2(_Dumper)


def read(text: str, source: str, *, with_lines: bool = True) -> Document:
    """Read one YAML document. What is no YAML at all raises a RecipeError; the rest goes to `problems`."""
    try:
        if text_too_deep(text):
            raise RecursionError
        node = _Loader(text).get_single_node()
        document = _Builder(source, with_lines).document(node)
        if too_deep(document.values):
            raise RecursionError
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark and with_lines else None
        raise RecipeError(f"{Place(source, line)}: broken YAML: {_in_words(error)}") from None
    except yaml.YAMLError:
        raise RecipeError(f"{source}: broken YAML: it holds characters that no text file has") from None
    except RecursionError:
        raise RecipeError(f"{source}: nested too deeply for a recipe") from None


def write(values: Any) -> str:
    """Write plain values as YAML, in their own order; `read` gives the same values back."""
    text: str = yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100
    )
    return text


def _in_words(error: yaml.MarkedYAMLError) -> str:
    words = " ".join(part for part in (error.context, error.problem) if part)
    return f"{words}; indent with spaces, not tabs" if "'\\t'" in words else words


class _Builder:
    """Turns YAML nodes into values; one for each document."""

    def __init__(self, source: str, with_lines: bool) -> None:
        self.result = Document(source, None)
        self.with_lines = with_lines

    def document(self, node: yaml.Node | None) -> Document:
        if node is not None:
            self.result.places[()] = self._place(node)
            self.result.values = self._kept(node, ())
        return self.result

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.result.source, node.start_mark.line + 1 if self.with_lines else None)

    def _value(self, node: yaml.Node, key: Key) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._item(item, (*key, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag.removeprefix(_TAG) in _SCALARS:
            try:
                return _SCALARS[node.tag.removeprefix(_TAG)](node.value)
            except ValueError as error:
                self.result.complain(key, str(error))
                return _SPOILT
        self.result.complain(key, f"the tag {node.tag.replace(_TAG, '!!')} is not supported")
        return _SPOILT

    def _item(self, node: yaml.Node, key: Key) -> Any:
        self.result.places[key] = self._place(node)
        return self._kept(node, key)

    def _kept(self, node: yaml.Node, key: Key) -> Any:
        """Return a value whose place cannot be left out: null where it is spoilt."""
        value = self._value(node, key)
        return None if value is _SPOILT else value

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self.result.problems.append(Problem(self._place(name), key, "a key should be one word"))
                continue
            inner = (*key, str(name.value))
            if name.value in values:
                first = self.result.places[inner].line
                text = f"given twice, first at line {first}" if first else "given twice"
                self.result.problems.append(Problem(self._place(name), inner, text))
                continue
            self.result.places[inner] = self._place(name)
            values[name.value] = self._value(value, inner)
        return {name: value for name, value in values.items() if value is not _SPOILT}


def _integer(text: str) -> int:
    if len(text) > 100:
        raise ValueError("a number of more than 100 digits")
    return int(text.replace("_", ""), 0 if text[:2] in ("0o", "0x") else 10)


def _float(text: str) -> float:
    number = float(text.replace("_", ""))
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"should be true or false, not {text!r}")
    return text.lower() == "true"


_SCALARS: dict[str, Any] = {
    "str": str,
    "int": _integer,
    "float": _float,
    "bool": _boolean,
    "null": lambda text: None,
}
