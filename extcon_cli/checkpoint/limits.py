"""How much memory a file may make extcon ask for: what its own size explains, and never more than a stated limit.

`--max-memory` (EXTCON_MAX_MEMORY) states the limit; the default is a share of what is free. Checked before the memory
is asked for; it does not watch what the process uses.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import IO, cast

from extcon_cli.errors import CheckpointError
from extcon_cli.memory import memory_limit, shown

INFLATION = 10
"""Bytes of tensors that a byte of a file may stand for: tensors are stored whole, but may share numbers."""
SMALL = 2**20
"""Bytes that any file may ask for."""
ACTIVATIONS = 64
"""Bytes that a forward pass of two samples takes at the least for each number of an input."""
_GROWING = (b"bytearray", b"_codecs")
"""What torch.load lets a file call that may give more bytes than were stored."""


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
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.rpartition("/")[2] == "data.pkl":
                        with archive.open(name) as file:
                            _check_pickle(file, size, path)
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} is cut off or damaged ({error}). Copy or download it again.") from error
    else:
        with path.open("rb") as file:
            for _ in range(5):  # the older format: numbers of the format, the object and its keys
                _check_pickle(file, size, path)


class _Bounded:
    """A file of which no more is read at a time than there can be: a length in it may be any number."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most = file, most

    def read(self, count: int) -> bytes:
        if count > self._most:
            raise ValueError(f"{count} bytes are said to follow")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(self._most)


def _check_pickle(file: IO[bytes], size: int, path: Path) -> None:
    calls, longest, largest, grows = 0, 0, 0, False
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], _Bounded(file, INFLATION * size))):
            if isinstance(argument, str | bytes):
                longest = max(longest, len(argument))
                text = argument.encode(errors="replace") if isinstance(argument, str) else argument
                grows = grows or (len(text) < 100 and any(name in text for name in _GROWING))
            elif isinstance(argument, int) and opcode.name not in _NO_NUMBERS:
                largest = max(largest, argument)
            calls += opcode.name in ("REDUCE", "NEWOBJ", "BUILD")
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeError, EOFError, struct.error):
        pass  # a broken pickle: torch's reader says so, once it has done what stands before
    if grows and (largest > INFLATION * size + SMALL or calls * longest > memory_limit()):
        raise CheckpointError(
            f"{path} would make a reader take {shown(max(largest, calls * longest))} of memory, from a file of "
            f"{shown(size)}: no training script writes such a file"
        )


_NO_NUMBERS = {"PROTO", "FRAME", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"}
