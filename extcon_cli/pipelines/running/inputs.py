"""Between the inputs of a forward pass and what a recipe or a checkpoint says of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from extcon_cli.channels.compare import Inputs
from extcon_cli.recipe.inputs import InputKind, InputKinds


def described(example: Inputs) -> InputKinds | None:
    """What a checkpoint says of its inputs beside their shape.

    None: one tensor of floats, of which the shape says all, or inputs within inputs, for which there are no words.
    """
    parts = dict(example) if isinstance(example, Mapping) else {str(at): part for at, part in enumerate(example)}
    if not all(isinstance(part, Tensor) and part.dim() for part in parts.values()):
        return None
    if not isinstance(example, Mapping) and len(parts) == 1 and parts["0"].is_floating_point():
        return None
    return {name: str(_kind(part)) for name, part in parts.items()}


def made(kinds: InputKinds, *, dtype: torch.dtype) -> Inputs:
    """Two samples of such inputs, the same each time: floats are zero (in `dtype`), whole numbers random."""
    generator = torch.Generator().manual_seed(0)
    parts = {name: _tensor(InputKind.parse(text), generator, dtype) for name, text in kinds.items()}
    return tuple(parts.values()) if all(name.isdigit() for name in parts) else parts


def moved(example: Inputs, device: torch.device) -> Inputs:
    """The inputs on a device."""
    found: Inputs = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, example)
    return found


def shapes(example: Inputs) -> str:
    """The shapes of the inputs without the batch, for a reader."""
    if isinstance(example, Mapping):
        return ", ".join(f"{name} {list(part.shape[1:])}" for name, part in sorted(example.items()))
    return ", ".join(str(list(part.shape[1:])) for part in example)


def _kind(part: Tensor) -> InputKind:
    dtype, shape = str(part.dtype).removeprefix("torch."), tuple(part.shape[1:])
    return InputKind(dtype, shape, int(part.min()), int(part.max())) if "int" in dtype else InputKind(dtype, shape)


def _tensor(kind: InputKind, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    shape, own = (2, *kind.shape), getattr(torch, kind.dtype)
    if "int" in kind.dtype:
        return torch.randint(kind.low, kind.high + 1, shape, generator=generator, dtype=own)
    return torch.ones(shape, dtype=own) if own == torch.bool else torch.zeros(shape, dtype=dtype)
