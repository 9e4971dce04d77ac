"""What is known of a value: a tensor that broadcasts to its shape, NaN where it is no known constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Known: TypeAlias = "Tensor | Sequence[Known] | None"
"""Of a tensor, of the several that an operator returns, of something else."""


def unknown(rank: int) -> Tensor:
    """Nothing is known of a tensor with so many dimensions."""
    return torch.full((1,) * rank, torch.nan, dtype=torch.float64)


def per_channel(value: Tensor, dim: int, size: int) -> Tensor:
    """One known constant a channel, NaN where it is infinite or differs along the other dimensions: (size,)."""
    if value.shape[dim] == size == value.numel():
        value = value.reshape(size)
        return torch.where(value.isfinite(), value, torch.nan)
    if value.shape[dim] == 1 and size > 1:
        value = value.expand(*value.shape[:dim], size, *value.shape[dim + 1 :])
    rows = value.movedim(dim, 0).reshape(value.shape[dim], -1)
    low, high = rows.amin(1), rows.amax(1)  # NaN wins in both
    return torch.where((low == high) & low.isfinite(), low, torch.nan)


def along(value: Tensor, dim: int, rank: int) -> Tensor:
    """A vector laid along one dimension of a tensor of this rank."""
    return value.reshape([-1 if d == dim else 1 for d in range(rank)])


def in_front(value: Tensor, rank: int) -> Tensor:
    """A value with dimensions of length one put in front, up to this rank."""
    return value.reshape((1,) * (rank - value.dim()) + tuple(value.shape))


def compact(value: Tensor) -> Tensor:
    """The same knowledge with every dimension along which nothing changes reduced to length one."""
    for dim in range(value.dim()):
        if value.shape[dim] < 2:
            continue
        first, second = value.narrow(dim, 0, 1), value.narrow(dim, 1, 1)
        if value.stride(dim) == 0 or (_same(second, first) and _same(value, first)):
            value = first
    return value


def _same(value: Tensor, other: Tensor) -> bool:
    return torch.equal(value.nan_to_num(nan=3e300), other.nan_to_num(nan=3e300).expand_as(value))


def held_as(value: Tensor, before: torch.dtype, after: torch.dtype) -> Tensor:
    """A known value as another type holds it: cut to an integer, rounded to half precision."""
    if after == before:
        return value
    return torch.where(value.isnan(), torch.nan, value.nan_to_num(nan=0.0).to(after).double())
