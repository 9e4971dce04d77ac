"""Lengths of time as people write them: 4ms, 0.5s, 800us."""

from __future__ import annotations

import re

from extcon_cli.errors import UsageError

DURATION = r"(?=[\d.]*[1-9])(\d+|\d*\.\d+) ?(s|ms|us|µs)"
"""A length of time, not zero."""
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def share_of(text: str) -> float | None:
    """'0.5' -> 0.5. None: it is no number between 0 and 1."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 < found < 1 else None


def seconds_of(text: str) -> float:
    """'4ms' -> 0.004. UsageError: it is no length of time."""
    found = re.fullmatch(DURATION, text)
    if found is None:
        raise UsageError(f"{text!r} should be a length of time, such as 4ms or 0.5s")
    return float(found[1]) * UNITS[found[2]]
