"""How deeply values are nested: what goes deeper than any recipe is refused before something recurses into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DEEPEST = 64


def too_deep(value: Any) -> bool:
    """Do more than `DEEPEST` mappings and lists stand inside each other? It does not recurse itself."""
    left = [(value, 0)]
    while left:
        inner, level = left.pop()
        if level > DEEPEST:
            return True
        parts = inner.values() if isinstance(inner, Mapping) else inner if isinstance(inner, list | tuple) else ()
        left.extend((part, level + 1) for part in parts)
    return False


def text_too_deep(text: str) -> bool:
    """Does a YAML text open far more brackets, or lists in one line, than a recipe has? Told before it is parsed."""
    if re.search(rf"(?:[-?:][ \t]+){{{DEEPEST}}}", text):
        return True
    level = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        level += 1 if bracket[0] in "[{" else -1
        if level > 4 * DEEPEST:
            return True
    return False
