"""JSON from files that may be damaged or hostile."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def parse_json(text: str | bytes, *, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """What a JSON text says; `parse_constant` as in `json.loads`.

    Raises: ValueError (it is no JSON, or is nested too deeply to be read, which `json` alone tells by RecursionError).
    """
    try:
        return json.loads(text, parse_constant=parse_constant)
    except RecursionError as error:
        raise ValueError(str(error)) from error
