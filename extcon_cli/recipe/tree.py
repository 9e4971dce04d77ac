"""The recipe's keys as a tree: which section stands where, how a key is called. It holds no values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from inspect import isclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from extcon_cli.recipe.base import Section
from extcon_cli.recipe.document import Key, dotted
from extcon_cli.recipe.schema import Recipe

OTHER_NAMES = {"learning_rate": "lr", "wd": "weight_decay", "iterations": "steps", "lambda": "strength"}
"""What people call our keys elsewhere."""


def section_of(annotation: Any) -> type[Section] | None:
    """Find the section that a field's type holds, also inside Optional and Annotated."""
    if isclass(annotation) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_of, get_args(annotation))), None)


def section_at(key: Key) -> type[Section] | None:
    """Return the section that stands at `key`, or None where there is none (a value, or an unknown key)."""
    section: type[Section] | None = Recipe
    for part in key:
        if isinstance(part, int):  # an entry of a list of sections
            continue
        if section is None or part not in section.model_fields:
            return None
        section = section_of(section.model_fields[part].annotation)
    return section


def fields(section: type[Section] = Recipe, above: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    """Walk over every field below `section`, sections included (of a list the first), in the order of the schema."""
    for name, field in section.model_fields.items():
        yield (*above, name), field
        inner = section_of(field.annotation)
        if inner is not None:
            listed = isinstance(field.get_default(call_default_factory=True), tuple)
            yield from fields(inner, (*above, name, 0) if listed else (*above, name))


@cache
def _all_keys() -> tuple[Key, ...]:
    return tuple(key for key, _ in fields())


def nearest(word: object, known: Iterable[str]) -> str | None:
    """Return the known word that `word` was probably meant to be, or None."""
    spelt = {name.lower(): name for name in known}
    plain = str(word).lower().replace("-", "_")
    found = [plain] if plain in spelt else get_close_matches(plain, spelt, n=1)
    return spelt[found[0]] if found else None


def suggestion(key: Key) -> str:
    """Say what an unknown key should be: a near name beside it, its name elsewhere, or what is known."""
    *above, name = key
    section = section_at(tuple(above))
    known = list(section.model_fields) if section else []
    meant = OTHER_NAMES.get(str(name), name)
    near = nearest(meant, known)
    elsewhere = [other for other in _all_keys() if other[-1] == meant]
    if elsewhere and meant not in known:
        near = dotted(max(elsewhere, key=lambda other: _closeness(other, key)))
    if near is not None:
        return f"did you mean {near!r}?"
    return f"known here: {', '.join(known)}"


def _closeness(one: Key, other: Key) -> tuple[int, int]:
    """Order keys by what they share with `other` from the top, then by how short they are."""
    shared = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))
    return shared, -len(one)
