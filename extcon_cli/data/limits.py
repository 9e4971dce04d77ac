"""How much memory a file of data may ask for. Checked before it is asked for; it does not watch what a process uses."""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path
from typing import IO

from numpy.lib import format as npy

from extcon_cli.errors import DataError
from extcon_cli.memory import memory_limit, shown


def check_npz(path: Path) -> None:
    """Refuse an archive of arrays that would take more memory than there is, or that says more than it holds.

    Raises: DataError; whatever zipfile and numpy raise for what is no such archive.
    """
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
        if total > (limit := memory_limit()):
            raise DataError(
                f"{path}: its arrays would take {shown(total)} of memory; the limit is {shown(limit)} "
                "(--max-memory raises it)"
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
