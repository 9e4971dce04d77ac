"""Numbers of bytes as people write them: 10MB, 512KiB."""

from __future__ import annotations

import re

from extcon_cli.errors import UsageError

SIZE = r"(\d+|\d*\.\d+) ?([kKMG]i?)?B"
"""A number of bytes."""
UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "ki": 2**10, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def bytes_of(text: str) -> float:
    """'10MB' -> 1e7. UsageError: it is no number of bytes."""
    found = re.fullmatch(SIZE, text)
    if found is None:
        raise UsageError(f"{text!r} should be a number of bytes, such as 10MB or 512KiB")
    return float(found[1]) * UNITS[found[2] or ""]
