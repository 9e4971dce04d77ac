"""Pooling, resampling and averages: they act along space and leave channels alone, or sum over them."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from extcon_cli.channels.analysis.axes import Value
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, holds_tensor, shape
from extcon_cli.channels.analysis.rules.inline_norms import root_mean_square
from extcon_cli.channels.analysis.rules.norm_modules import is_mean_of_response
from extcon_cli.channels.analysis.rules.pointwise import evaluate, meet
from extcon_cli.channels.analysis.rules.registry import constants, flow

POOLS = tuple(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3))
RESAMPLING = ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
              "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_nearest_exact1d",
              "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
              "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa")  # fmt: skip


def _space(op: Operator) -> int:
    """How many dimensions it runs along: the last ones."""
    found = re.search(r"(\d)d", op.name)
    assert found is not None
    return int(found[1])


@flow(*POOLS, *RESAMPLING)
def along_space(op: FlowOperator) -> Value | list[Value]:
    """The dimensions after the channels shrink or grow; channels that lie there cannot be followed."""
    value, space = op.axes(0), _space(op)
    op.refuse(value[len(value) - space :], f"{op.name} runs along it")
    pooled = (*value[: len(value) - space], *(None,) * space)
    return pooled if holds_tensor(op.node) else [pooled, pooled]  # the extremes, and where they are


@flow("mean", "sum", "amax", "amin", "linalg_vector_norm", "norm", "var", "std", "prod", "all", "any")
def reduction(op: FlowOperator) -> Value:
    """Channels may lie along a dimension that goes only where zeros add nothing, or a norm can count those removed."""
    value, dims = op.axes(0), _reduced(op)
    if _adds_up(op) or (op.name == "mean" and is_mean_of_response(op)):
        for dim in dims:
            op.read_zeros(op.input(0), dim)
    elif op.name != "mean" or not root_mean_square(op):
        op.freeze([value[dim] for dim in dims], f"{op.name} runs over these channels")
    kept = [None if dim in dims else axis for dim, axis in enumerate(value)]
    if op.flag("keepdim"):
        return tuple(kept)
    return tuple(axis for dim, axis in enumerate(kept) if dim not in dims)


@flow("max", "min")
def extreme(op: FlowOperator) -> Value | list[Value]:
    """Of two tensors at each position, or along a dimension, then with the place where it is."""
    if op.optional_input(1) is not None:
        return meet(op)
    found = reduction(op)
    if holds_tensor(op.node):  # of all numbers
        return found
    return [found, tuple(axis and axis.without_sources() for axis in found)]


@constants("max", "min")
def extremes(op: KnownOperator) -> Tensor | list[Tensor]:
    """The larger of two known numbers, or the number that all along the dimension are; not where it is."""
    if op.optional_input(1) is not None:
        return evaluate(op)
    found = averaged(op)
    return found if holds_tensor(op.node) else [found, torch.full_like(found, torch.nan)]


def _adds_up(op: Operator) -> bool:
    """Whether zeros add nothing to it: a sum, or a norm of a positive order."""
    if op.name in ("linalg_vector_norm", "norm"):
        order = op.value(1, 2)
        return isinstance(order, (int, float)) and order > 0
    return op.name == "sum"


@constants(*POOLS, *RESAMPLING)
def pooled(op: KnownOperator) -> Tensor | list[Tensor]:
    """A constant map stays the constant; an average that counts padding, or divides by its own, keeps only zeros."""
    read, space = op.constant(0), tuple(range(-_space(op), 0))
    low, high = read.amin(space, True), read.amax(space, True)
    result = torch.where(low == high, low, torch.nan)
    if op.name.startswith("avg") and (op.value("divisor_override") or any(op.integers("padding"))):
        result = torch.where(result == 0, result, torch.nan)
    return result if holds_tensor(op.node) else [result, torch.full_like(result, torch.nan)]


@constants("mean", "amax", "amin", "sum", "linalg_vector_norm", "norm")
def averaged(op: KnownOperator) -> Tensor:
    """The mean or the extreme of equal numbers is the number; of a sum and a norm only zero is known."""
    read, dims = op.constant(0), _reduced(op)
    low, high = (read.amin(dims, True), read.amax(dims, True)) if dims else (read, read)
    same = (low == high) if op.name in ("mean", "amax", "amin", "max", "min") else (low == 0) & (high == 0)
    result = torch.where(same, low, torch.nan)
    if op.flag("keepdim"):
        return result
    return result.squeeze(dims) if dims else result


def _reduced(op: Operator) -> tuple[int, ...]:
    """The dimensions that it runs over; all where none is named."""
    rank = len(shape(op.input(0)))
    return tuple(dim % rank for dim in op.integers("dim")) or tuple(range(rank))
