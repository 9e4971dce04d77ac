"""A plain state dict for `torch.load`, with the tensors' own names. It holds no network: the class has to be there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: tuple[str, ...] = ()
INSTALL = ""
RUNTIME = "torch"


def write(state: Mapping[str, Tensor], path: Path) -> None:
    """Write the tensors."""
    import torch

    torch.save(dict(state), path)


def load(path: str, threads: int) -> Callable[[list[Any]], list[Any]]:
    """A function that gives the tensors that were read, in the order of their names; half precision as float32."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    ordered = [state[name] for name in sorted(state)]
    return lambda arrays: [(t.float() if t.is_floating_point() and t.itemsize == 2 else t).numpy() for t in ordered]
