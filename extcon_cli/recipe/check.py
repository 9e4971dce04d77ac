"""Checks plain values against the schema and puts every problem in plain words. It reads no file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.document import Document, Key, Problem
from extcon_cli.recipe.schema import Recipe
from extcon_cli.recipe.tree import nearest, section_at, suggestion

_NOUNS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "invalid-json-value": "text, a number, true, false, null, a list or a section",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def check(document: Document) -> Recipe:
    """Return the recipe that `document` describes. All its problems together raise one RecipeError."""
    problems = list(document.problems)
    noted = {problem.key for problem in problems if problem.key}
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        said: dict[Key, list[str]] = {}  # more than one where a key takes several forms, and the value is none of them
        for found in error.errors(include_url=False):
            key = _key(found["loc"], document.values, found["type"])
            emptied = found["type"] == "too_short" and found["input"]  # by what is wrong in it, which is told itself
            if key not in noted and not emptied:
                said.setdefault(key, []).append(_explain(found, key))
        problems += [Problem(document.place(key), key, _either(texts)) for key, texts in said.items()]
    if problems:
        problems.sort(key=lambda problem: problem.place.line or math.inf)
        raise RecipeError("\n".join(map(str, problems)))
    return recipe


def _key(loc: Sequence[str | int], values: Any, kind: str) -> Key:
    """Turn pydantic's location into ours: without the names of the types it tried within free values."""
    key: Key = ()
    for n, part in enumerate(loc):
        if part in (values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()):
            key, values = (*key, part), values[part]
        elif kind == "missing" and n == len(loc) - 1:
            key = (*key, part)
    return key


def _either(texts: Sequence[str]) -> str:
    """What is wrong with a value, in one line, by what each form that its key takes says."""
    forms = [text.removeprefix("should be ").partition(", not ") for text in texts]
    if len(texts) == 1 or not all(separator for _, separator, _ in forms):
        return "; ".join(texts)
    return f"should be {' or '.join(form for form, _, _ in forms)}, not {forms[-1][2]}"


def _explain(error: Any, key: Key) -> str:
    """Say in plain words what is wrong with the value at `key`."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key ({suggestion(key)})"
    if kind == "missing":
        return "is missing" if section_at(key[:-1]) else "the list is too short"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        near = nearest(value, _choices(context["expected"])) if isinstance(value, str) else None
        hint = f" (did you mean {near!r}?)" if near else ""
        return f"should be {context['expected']}, not {_shown(value)}{hint}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"should be {words} {context[bound]:.12g}, not {_shown(value)}"
    if kind in ("too_short", "string_too_short"):
        return "should not be empty"
    if kind == "too_long":
        return f"should have {context['max_length']} entries, not {context['actual_length']}"
    if kind in _NOUNS:
        return f"should be {_NOUNS[kind]}, not {_shown(value)}{_hint(kind, value)}"
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, not {_shown(value)}"


def _choices(expected: str) -> list[str]:
    return [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section"
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _hint(kind: str, value: Any) -> str:
    """Name the usual slip behind a value of the wrong type."""
    if kind in ("float_type", "int_type") and isinstance(value, str) and _is_number(value):
        return " (take away the quotes)"
    if kind == "bool_type" and str(value).lower() in ("yes", "on", "1", "y", "true"):
        return " (write true)"
    if kind == "bool_type" and str(value).lower() in ("no", "off", "0", "n", "false"):
        return " (write false)"
    if kind == "model_type" and value is False:
        return " (write null to switch it off)"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return " (put it in quotes)"
    return ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
