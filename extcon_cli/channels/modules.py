"""What every part that looks at a module needs: its tensors by name, and its eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode, every submodule's own mode restored afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for child, training in modes:
            child.training = training


def named_tensor(module: nn.Module, name: str) -> Tensor:
    """One parameter or buffer."""
    path, _, key = name.rpartition(".")
    held: Tensor = getattr(module.get_submodule(path), key)
    return held


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, tied ones under each of their names."""
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors.update(module.named_buffers(remove_duplicate=False))
    return tensors
