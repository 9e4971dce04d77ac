"""Puts `--set key.path=value` into a document before it is checked. Values are YAML: lists and null work."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.base import Duration
from extcon_cli.recipe.document import Document, Key, Place, Problem, dotted, read
from extcon_cli.recipe.schema import Recipe
from extcon_cli.recipe.tree import section_at


def override(document: Document, overrides: Sequence[str]) -> Document:
    """Return a copy of `document` with the overrides put in, in their order; a later one wins.

    A length in `steps` replaces one in `epochs` and the other way round: who sets one does not mean both.
    """
    result = copy.deepcopy(document)
    for text in overrides:
        path, equals, value = text.partition("=")
        parts = path.strip().split(".")
        source = f"--set {path.strip()}"
        if not equals or not all(parts):
            result.problems.append(Problem(Place(f"--set {text}"), (), "should look like train.epochs=5"))
            continue
        try:
            _put(result, parts, read(value, source, with_lines=False))
        except RecipeError as error:
            result.problems.append(Problem(Place(source), (), str(error).removeprefix(f"{source}: ")))
    return result


def _put(document: Document, parts: Sequence[str], given: Document) -> None:
    """Set the value at `parts`, making the sections on the way. RecipeError: no way leads there."""
    place = Place(given.source)
    holder: Any = document.values
    key: Key = ()
    for n, part in enumerate(parts, start=1):
        name = _name(holder, part, key)
        key = (*key, name)
        if n == len(parts):
            _assign(holder, name, given.values)
        else:
            document.places.setdefault(key, place)
            if _lookup(holder, name) is None:
                _assign(holder, name, _default(key))
            holder = _lookup(holder, name)
    document.places = {at: where for at, where in document.places.items() if at[: len(key)] != key}
    document.places |= {(*key, *at): place for at in given.places}
    document.problems += [Problem(place, (*key, *problem.key), problem.text) for problem in given.problems]
    _keep_one_length(holder, key, given.values)
    _keep_one_aim(document.values, key, given.values)


def _name(holder: Any, part: str, key: Key) -> str | int:
    """Return the key or index that `part` means in `holder`; the index after the last one appends."""
    if isinstance(holder, dict):
        return part
    if isinstance(holder, list) and part.isdecimal() and int(part) <= len(holder):
        return int(part)
    what = f"a list of {len(holder)}" if isinstance(holder, list) else "a single value"
    raise RecipeError(f"`{dotted(key)}` is {what}, so it has no {part!r}")


def _lookup(holder: Any, name: Any) -> Any:
    return holder.get(name) if isinstance(holder, dict) else holder[name] if name < len(holder) else None


def _assign(holder: Any, name: Any, value: Any) -> None:
    if isinstance(holder, list) and name == len(holder):
        holder.append(value)
    else:
        holder[name] = value


def _default(key: Key) -> Any:
    """Return what stands at `key` where the document says nothing: the schema's list, or an empty section."""
    value: Any = Recipe().model_dump(mode="json")
    for part in key:
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, list) else {}


def _keep_one_length(holder: Any, key: Key, value: Any) -> None:
    section = section_at(key[:-1])
    if value is not None and section is not None and issubclass(section, Duration):
        rival = {"epochs": "steps", "steps": "epochs"}.get(str(key[-1]))
        holder.pop(rival, None)


def _keep_one_aim(values: Any, key: Key, value: Any) -> None:
    """A ratio replaces a target, and the other way round."""
    rival = {"ratio": "target", "target": "ratio"}.get(str(key[1])) if len(key) > 1 and key[0] == "prune" else None
    if value is not None and rival is not None:
        values["prune"].pop(rival, None)
