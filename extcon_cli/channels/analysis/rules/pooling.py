"""Pooling, resampling and averages: they act along space and leave channels alone."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Value
from extcon_cli.channels.analysis.rules.inline_norms import root_mean_square
from extcon_cli.channels.analysis.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.analysis.trace import argument, holds_tensor, operator, shape, source

POOLS = tuple(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3))
RESAMPLING = ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
              "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_nearest_exact1d",
              "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")  # fmt: skip


@flow(*POOLS, *RESAMPLING)
def along_space(analysis: Analysis, node: fx.Node) -> Value | tuple[Value, ...]:
    """The dimensions after the channels shrink or grow; channels that lie there cannot be followed."""
    value = value_of(analysis, node.args[0])
    space = int(operator(node)[-2])
    analysis.freeze(value[len(value) - space :], f"{operator(node)} runs along it in {source(node)}")
    value = (*value[: len(value) - space], *(None,) * space)
    if holds_tensor(node):
        return value
    return (value, value)  # the extremes, and where they are


@flow("mean", "sum", "amax", "amin", "linalg_vector_norm", "var", "std", "prod", "all", "any")
def reduction(analysis: Analysis, node: fx.Node) -> Value:
    """Dimensions reduced away must not carry channels, but for the mean of a norm that can count removed zeros."""
    value = value_of(analysis, node.args[0])
    dims = _reduced(node)
    if operator(node) != "mean" or not root_mean_square(analysis, node):
        analysis.freeze([value[dim] for dim in dims], f"{operator(node)} runs over these channels in {source(node)}")
    kept = [None if dim in dims else axis for dim, axis in enumerate(value)]
    if argument(node, "keepdim", False):
        return tuple(kept)
    return tuple(axis for dim, axis in enumerate(kept) if dim not in dims)


@constants(*POOLS, *RESAMPLING)
def pooled(known: Known, node: fx.Node) -> Tensor | list[Tensor]:
    """A constant map stays the constant; an average that counts padding, or divides by its own, keeps only zeros."""
    read = known[node.args[0]]  # type: ignore[index]
    space = tuple(range(-int(operator(node)[-2]), 0))
    low, high = read.amin(space, True), read.amax(space, True)
    result = torch.where(low == high, low, torch.nan)
    padding, divisor = argument(node, "padding", 0), argument(node, "divisor_override")
    if operator(node).startswith("avg") and (divisor or any(padding if isinstance(padding, list) else [padding])):
        result = torch.where(result == 0, result, torch.nan)
    return result if holds_tensor(node) else [result, torch.full_like(result, torch.nan)]


@constants("mean", "amax", "amin", "sum")
def averaged(known: Known, node: fx.Node) -> Tensor:
    """The mean or the extreme of equal numbers is the number; a sum depends on how many they are, unless zero."""
    read, dims = known[node.args[0]], _reduced(node)  # type: ignore[index]
    low, high = (read.amin(dims, True), read.amax(dims, True)) if dims else (read, read)
    result = torch.where((low == high) if operator(node) != "sum" else (low == 0) & (high == 0), low, torch.nan)
    if argument(node, "keepdim", False):
        return result
    return result.squeeze(dims) if dims else result


def _reduced(node: fx.Node) -> tuple[int, ...]:
    rank = len(shape(node.args[0]))  # type: ignore[arg-type]
    dims = argument(node, "dim")
    if dims is None or dims == []:
        return tuple(range(rank))
    return tuple(dim % rank for dim in (dims if isinstance(dims, (list, tuple)) else [dims]))
