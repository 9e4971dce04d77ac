"""Tensors that lie in a checkpoint's file, read from it each time that they are used: the file is not kept in memory.

A file that torch or safetensors has mapped stays in a process's memory page by page as it is read, until the mapping
goes. Here each reading has a mapping of its own. It knows which parts of the file belong to a tensor from the process's
own mappings, so on Linux alone; elsewhere, and of what is no plain piece of the file, the tensor stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from extcon_cli.channels.deferred import SMALL, Deferred

MAPPINGS = Path("/proc/self/maps")


def read_when_used(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same tensors; the large ones that lie in this file as deferred ones."""
    pieces = _pieces(path)
    return {name: _in_file(tensor, path, pieces) for name, tensor in state.items()}


Piece = tuple[int, int, int]
"""The first address, the one after the last, and where in the file the first one lies."""


def _pieces(path: Path) -> list[Piece]:
    """Where a file is mapped into this process's memory."""
    try:
        lines = MAPPINGS.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        addresses, _, offset, _, _, *name = line.split(maxsplit=5)
        if name and name[0] == str(path.resolve()):
            first, _, end = addresses.partition("-")
            found.append((int(first, 16), int(end, 16), int(offset, 16)))
    return found


def _in_file(tensor: Tensor, path: Path, pieces: list[Piece]) -> Tensor:
    if tensor.numel() <= SMALL or type(tensor) not in (Tensor, torch.nn.Parameter) or not tensor.is_contiguous():
        return tensor
    for first, end, offset in pieces:
        if first <= (address := tensor.data_ptr()) and address + tensor.nbytes <= end:
            return Deferred(partial(_read, path, address - first + offset, tensor.dtype, tuple(tensor.shape)), tensor)
    return tensor


def _read(path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor over its own mapping; what is written to it does not reach the file."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.from_numpy(np.memmap(path, np.uint8, "c", offset, (size,))).view(dtype).reshape(shape)
