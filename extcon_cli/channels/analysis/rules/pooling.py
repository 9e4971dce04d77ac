"""Pooling, resampling and averages: they act along space and leave channels alone."""

from __future__ import annotations

import torch
from torch import Tensor

from extcon_cli.channels.analysis.axes import Value
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, holds_tensor, shape
from extcon_cli.channels.analysis.rules.inline_norms import root_mean_square
from extcon_cli.channels.analysis.rules.registry import constants, flow

POOLS = tuple(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3))
RESAMPLING = ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
              "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_nearest_exact1d",
              "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")  # fmt: skip


def _space(op: Operator) -> int:
    """How many dimensions it runs along: the last ones."""
    return int(op.name[-2])


@flow(*POOLS, *RESAMPLING)
def along_space(op: FlowOperator) -> Value | list[Value]:
    """The dimensions after the channels shrink or grow; channels that lie there cannot be followed."""
    value, space = op.axes(0), _space(op)
    op.freeze(value[len(value) - space :], f"{op.name} runs along it")
    pooled = (*value[: len(value) - space], *(None,) * space)
    return pooled if holds_tensor(op.node) else [pooled, pooled]  # the extremes, and where they are


@flow("mean", "sum", "amax", "amin", "linalg_vector_norm", "var", "std", "prod", "all", "any")
def reduction(op: FlowOperator) -> Value:
    """Dimensions reduced away must not carry channels, but for the mean of a norm that can count removed zeros."""
    value, dims = op.axes(0), _reduced(op)
    if op.name != "mean" or not root_mean_square(op):
        op.freeze([value[dim] for dim in dims], f"{op.name} runs over these channels")
    kept = [None if dim in dims else axis for dim, axis in enumerate(value)]
    if op.flag("keepdim"):
        return tuple(kept)
    return tuple(axis for dim, axis in enumerate(kept) if dim not in dims)


@constants(*POOLS, *RESAMPLING)
def pooled(op: KnownOperator) -> Tensor | list[Tensor]:
    """A constant map stays the constant; an average that counts padding, or divides by its own, keeps only zeros."""
    read, space = op.constant(0), tuple(range(-_space(op), 0))
    low, high = read.amin(space, True), read.amax(space, True)
    result = torch.where(low == high, low, torch.nan)
    if op.name.startswith("avg") and (op.value("divisor_override") or any(op.integers("padding"))):
        result = torch.where(result == 0, result, torch.nan)
    return result if holds_tensor(op.node) else [result, torch.full_like(result, torch.nan)]


@constants("mean", "amax", "amin", "sum")
def averaged(op: KnownOperator) -> Tensor:
    """The mean or the extreme of equal numbers is the number; a sum depends on how many they are, unless zero."""
    read, dims = op.constant(0), _reduced(op)
    low, high = (read.amin(dims, True), read.amax(dims, True)) if dims else (read, read)
    result = torch.where((low == high) if op.name != "sum" else (low == 0) & (high == 0), low, torch.nan)
    if op.flag("keepdim"):
        return result
    return result.squeeze(dims) if dims else result


def _reduced(op: Operator) -> tuple[int, ...]:
    """The dimensions that it runs over; all where none is named."""
    rank = len(shape(op.input(0)))
    return tuple(dim % rank for dim in op.integers("dim")) or tuple(range(rank))
