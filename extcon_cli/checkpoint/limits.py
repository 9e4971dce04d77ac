"""How much memory a file may make extcon ask for: what its own size explains, and never more than a stated limit.

`--max-memory` (EXTCON_MAX_MEMORY) states the limit; the default is a share of what is free. Checked before the memory
is asked for; it does not watch what the process uses.
"""

from __future__ import annotations

import os
import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import IO

from extcon_cli.errors import CheckpointError, UsageError

VARIABLE = "EXTCON_MAX_MEMORY"
SHARE = 0.8
"""Of the memory that is free, the default limit."""
INFLATION = 10
"""Bytes of tensors that a byte of a file may stand for: tensors are stored whole, but may share numbers."""
SMALL = 2**20
"""Bytes that any file may ask for."""
ACTIVATIONS = 64
"""Bytes that a forward pass of two samples takes at the least for each number of an input."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_GROWING = (b"bytearray", b"_codecs")
"""What torch.load lets a file call that may give more bytes than were stored."""


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


def check_memory(size: int, what: str) -> None:
    """CheckpointError where `what` needs more bytes than the limit."""
    if size > (limit := memory_limit()):
        raise CheckpointError(
            f"{what} would take {shown(size)} of memory; the limit is {shown(limit)} (--max-memory raises it)"
        )


def check_tensors(sizes: Mapping[str, int], file: int, source: str) -> None:
    """Refuse tensors that say they hold many times what their file does, as strides of 0 let them.

    Args:
        sizes: bytes of each tensor once it stands alone.
        file: bytes of the file.
    """
    total = sum(sizes.values())
    if total > INFLATION * file + SMALL:
        largest = max(sizes, key=lambda name: sizes[name])
        name = "".join(c if c.isprintable() else "?" for c in largest[:60])
        raise CheckpointError(
            f"{source}: tensor {name} would take {shown(sizes[largest])}, from a file of {shown(file)}: "
            "its numbers are not stored one by one; save it contiguous, or do not use this file"
        )
    check_memory(total, f"{source}: its tensors")


def check_inputs(shapes: Iterable[tuple[int, ...]], source: object) -> None:
    """Refuse inputs (each without the batch) whose forward pass could not be held."""
    for shape in shapes:
        check_memory(ACTIVATIONS * prod(shape), f"{source}: a forward pass of an input {list(shape)}")


def check_pickle(path: Path, *, zipped: bool) -> None:
    """Refuse what would make torch.load allocate more than the file holds, by reading the opcodes alone."""
    size = path.stat().st_size
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] == "data.pkl":
                    with archive.open(name) as file:
                        _check_pickle(file, size, path)
    else:
        with path.open("rb") as file:
            for _ in range(5):  # the older format: numbers of the format, the object and its keys
                _check_pickle(file, size, path)


def _check_pickle(file: IO[bytes], size: int, path: Path) -> None:
    calls, longest, largest, grows = 0, 0, 0, False
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if isinstance(argument, str | bytes):
                longest = max(longest, len(argument))
                text = argument.encode(errors="replace") if isinstance(argument, str) else argument
                grows = grows or (len(text) < 100 and any(name in text for name in _GROWING))
            elif isinstance(argument, int) and opcode.name not in _NO_NUMBERS:
                largest = max(largest, argument)
            calls += opcode.name in ("REDUCE", "NEWOBJ", "BUILD")
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeError):
        return  # a broken pickle: torch's reader says so
    if grows and (largest > INFLATION * size + SMALL or calls * longest > memory_limit()):
        raise CheckpointError(
            f"{path} would make a reader take {shown(max(largest, calls * longest))} of memory, from a file of "
            f"{shown(size)}: no training script writes such a file"
        )


_NO_NUMBERS = {"PROTO", "FRAME", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"}


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
