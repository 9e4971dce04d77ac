"""A folder's weights read and written tensor by tensor, for models of which a few copies do not fit into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor, nn

from extcon_cli.channels.deferred import Deferred, Make, defer, dense
from extcon_cli.checkpoint.encode import encoded
from extcon_cli.errors import UsageError
from extcon_cli.memory import memory_limit, shown

COPIES = 9
"""Times that a model's weights are in memory at the most while a folder is pruned, those in float64 included."""
LARGEST_SHARD = 2**29
"""Bytes of a shard that is written of a model that is read tensor by tensor."""


def too_large(size: int) -> bool:
    """Whether a model of so many bytes, as it computes, has to be read tensor by tensor."""
    return size * COPIES > memory_limit()


def read_on_demand(module: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Put tensors that are read from the folder's shards when they are used in the place of a module's large ones.

    Args:
        module: as `from_pretrained` gave it; what it made of the shards otherwise than by reading stays as it is.
        path: the folder.
        dtype: of all tensors of floating numbers.
    """
    places: dict[str, Path] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safetensors.safe_open(file, "pt") as opened:
            places |= dict.fromkeys(opened.keys(), file)
    names = {name.rpartition("model.")[2]: name for name in places}

    def reader(name: str, tensor: Tensor) -> Make | None:
        stored = name if name in places else names.get(name.rpartition("model.")[2])
        if stored is None:
            return None
        make = partial(_read, places[stored], stored)
        found = make()
        return make if found.dtype == tensor.dtype and torch.equal(found, tensor) else None

    defer(module, dtype, reader)


def store(file: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state to a safetensors file, one tensor in memory at a time."""
    with file.open("xb") as opened:
        for part in encoded(state, {"format": "pt"}):
            opened.write(part)


def spill(tensor: Tensor, folder: Path) -> None:
    """Put what a deferred tensor is now into an unnamed file of this folder, so that what was written to it is no
    longer in memory; a plain tensor stays. The system takes the file away when nobody needs it.

    Raises: UsageError where the folder has no room.
    """
    if not isinstance(tensor, Deferred):
        return
    numbers = dense(tensor).contiguous()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(numbers.reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
            held = np.memmap(file, np.uint8, "r+", shape=(numbers.nbytes,))
    except OSError as error:
        raise UsageError(
            f"{folder} cannot hold {shown(numbers.nbytes)} of weights on their way: {error.strerror}"
        ) from error
    tensor.copy_(torch.from_numpy(held).view(numbers.dtype).reshape(numbers.shape))


def stored(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory."""
    with safetensors.safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (it is no mapping)


def _read(file: Path, name: str) -> Tensor:
    with safetensors.safe_open(file, "pt") as opened:
        found: Tensor = opened.get_tensor(name)
    return found
