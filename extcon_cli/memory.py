"""How much memory a file may make extcon ask for: a stated limit, or a share of what is free.

`--max-memory` (EXTCON_MAX_MEMORY) states it. Who asks for memory checks first; nothing here watches what is used.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from extcon_cli.errors import UsageError

VARIABLE = "EXTCON_MAX_MEMORY"
SHARE = 0.8
"""Of the memory that is free, the default limit."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """`4GB`, `512MiB`, `1000000` (ValueError: no such size)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]i?)?b?", text.strip().lower())
    if match is None or (size := int(float(match[1]) * _UNITS[match[2] or ""])) < 1:
        raise ValueError(f"{text[:40]!r} is no amount of memory such as 4GB or 512MiB")
    return size


def memory_limit() -> int:
    """Bytes that a file may ask for."""
    if told := os.environ.get(VARIABLE):
        try:
            return parse_bytes(told)
        except ValueError as error:
            raise UsageError(f"{VARIABLE}: {error}") from None
    return int(SHARE * _free())


def shown(size: int) -> str:
    """A number of bytes for people."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"


def _free() -> float:
    """Bytes of memory that are free, for this process's container too; infinite where nothing tells."""
    free = float("inf")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration, IndexError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        group = Path("/sys/fs/cgroup")
        allowed = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        free = min(free, max(allowed, 0))
    except (OSError, ValueError):  # no container, or no limit
        pass
    return min(free, 2.0**62)
