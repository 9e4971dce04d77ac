"""New positions at the end of dimensions of a module's tensors, as an immutable value: the inverse of a removal.

A plan is stored as JSON with the widened checkpoint and replayed when that is loaded. What the new positions hold is
not said here: `bypass/` draws them, a checkpoint fills them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.channels.modules import named_tensors
from extcon_cli.channels.removal.apply import sync_attributes
from extcon_cli.errors import CheckpointError

KEY = "added"
"""That tells the JSON of a widening from that of a removal."""


@dataclass(frozen=True)
class Added:
    """`number` new positions at the end of one dimension, which had `size`."""

    tensor: str
    dim: int
    size: int
    number: int


@dataclass(frozen=True)
class WideningPlan:
    """All that is added to a module."""

    added: tuple[Added, ...]

    def to_json(self) -> dict[str, object]:
        return {KEY: [asdict(part) for part in self.added]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> WideningPlan:
        """CheckpointError where it is damaged."""
        try:
            parts = tuple(Added(**part) for part in document[KEY])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"a widening plan is damaged: {str(error)[:80]}") from error
        if not all(type(n) is int and n > 0 for part in parts for n in (part.size, part.number)):
            raise CheckpointError("a widening plan is damaged: sizes are positive whole numbers")
        return cls(parts)


def widening(module: nn.Module, state: Mapping[str, Tensor]) -> WideningPlan:
    """What a state dict has more than the module that it is a wider one of; nothing where they are of one size."""
    own: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}  # tied ones once
    return WideningPlan(
        tuple(
            Added(name, dim, was, now - was)
            for name, tensor in state.items()
            if name in own
            for dim, (was, now) in enumerate(zip(own[name].shape, tensor.shape, strict=False))
            if now > was
        )
    )


def add(module: nn.Module, plan: WideningPlan) -> None:
    """Widen the module in place, by zeros. CheckpointError: the plan was made for another module."""
    for part in plan.added:
        tensor = named_tensors(module).get(part.tensor)
        if tensor is None or not 0 <= part.dim < tensor.dim() or tensor.shape[part.dim] != part.size:
            raise CheckpointError(f"a widening plan is of another module: {part.tensor[:60]} is not there in that size")
        shape = [part.number if dim == part.dim else size for dim, size in enumerate(tensor.shape)]
        append(module, part.tensor, part.dim, tensor.new_zeros(shape))
    sync_attributes(module)


@torch.no_grad()
def append(module: nn.Module, name: str, dim: int, slices: Tensor, repeat: int = 1) -> None:
    """Put further slices at the end of a parameter or buffer, in every place that holds it."""
    old = named_tensors(module)[name]
    new = torch.cat([old.detach(), *[slices] * repeat], dim)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    for child in module.modules():
        for store in (child._parameters, child._buffers):
            for key, tensor in list(store.items()):
                if tensor is old:
                    store[key] = new  # type: ignore[assignment]
