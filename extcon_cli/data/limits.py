"""How much memory a file of data may ask for. Checked before it is asked for; it does not watch what a process uses."""

from __future__ import annotations

import os
import zipfile
from math import prod
from pathlib import Path
from typing import IO

from numpy.lib import format as npy

from extcon_cli.errors import DataError

VARIABLE = "EXTCON_MAX_MEMORY"
"""Bytes that data may take. Not set: a share of what is free."""
SHARE = 0.8


def check_npz(path: Path) -> None:
    """Refuse an archive of arrays that would take more memory than there is, or that says more than it holds.

    Raises: DataError; whatever zipfile and numpy raise for what is no such archive.
    """
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
        if total > (limit := _limit()):
            raise DataError(
                f"{path}: its arrays would take {total / 1e9:.2g} GB, the limit is {limit / 1e9:.2g} GB; "
                f"save fewer samples in one file ({VARIABLE} sets the limit in bytes)"
            )
        for member in archive.infolist():
            with archive.open(member) as file:
                says = _bytes_said(file)
            if says > member.file_size:
                raise DataError(f"{path}: {member.filename} says it holds {says} bytes, it holds {member.file_size}")


def _bytes_said(file: IO[bytes]) -> int:
    """The size of an array by its header; 0 for what is no array."""
    if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        return 0
    version = tuple(file.read(2))
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return prod(int(size) for size in shape) * int(dtype.itemsize)


def _limit() -> int:
    told = os.environ.get(VARIABLE, "")
    if told.isascii() and told.isdigit():
        return int(told)
    try:
        return int(SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not on every system
        return 2**33
