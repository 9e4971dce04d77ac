"""Values added to or written over others at positions that are looked up; along the other dimensions channels meet."""

from __future__ import annotations

import torch
from torch import Tensor

from extcon_cli.channels.analysis.axes import Axis, Value, join_axes
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, shape
from extcon_cli.channels.analysis.rules.pointwise import tie_all
from extcon_cli.channels.analysis.rules.registry import constants, flow

SCATTERED = ("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_reduce")


@flow(*SCATTERED)
def scatter(op: FlowOperator) -> Value:
    """Zero where both values are, whichever of them ends up there."""
    value, other = op.axes(0), op.axes(3)
    dim = op.dim(len(value))
    numbers = _numbers(op, value, dim)
    op.refuse((value[dim], *other[dim : dim + 1], numbers[dim]), f"{op.name} finds positions by number")
    if op.optional_input(3) is None or len(other) != len(value):  # a number; a value of fewer dimensions
        op.freeze((*value, *other), f"{op.name} writes a number")
        return value
    result: list[Axis | None] = []
    for place, (axis, new) in enumerate(zip(value, other, strict=True)):
        if place == dim:
            result.append(axis)
        elif shape(op.input(0))[place] != shape(op.input(3))[place]:
            op.freeze((axis, new), f"{op.name} leaves positions out by number")
            result.append(axis)
        else:
            carrying = tie_all(op, [axis, new])
            tie_all(op, [axis for axis in (*carrying, numbers[place]) if axis is not None])
            result.append(join_axes(carrying) if carrying else None)
    return tuple(result)


@constants(*SCATTERED)
def scattered(op: KnownOperator) -> Tensor:
    """Zero where both values are, all along the dimension."""
    if op.optional_input(3) is None or len(shape(op.input(3))) != op.rank:
        return op.unknown()
    dim = op.dim(op.rank)
    zeros = [(op.constant(place) == 0).all(dim, keepdim=True) for place in (0, 3)]
    return torch.where(zeros[0] & zeros[1], 0.0, torch.nan).double()


@flow("gather")
def gather(op: FlowOperator) -> Value:
    """Positions along one dimension are looked up, for each of the others; these keep their channels."""
    value = op.axes(0)
    dim = op.dim(len(value))
    numbers = _numbers(op, value, dim)
    op.refuse((value[dim], numbers[dim]), "gather finds positions by number")
    result: list[Axis | None] = []
    for place, (axis, number) in enumerate(zip(value, numbers, strict=True)):
        whole = place != dim and shape(op.input(0))[place] == op.shape[place]
        if whole:
            tie_all(op, [found for found in (axis, number) if found is not None])
        elif place != dim:
            op.freeze((axis, number), "gather leaves positions out by number")
        result.append(axis if whole else None)
    return tuple(result)


def _numbers(op: FlowOperator, value: Value, dim: int) -> Value:
    """The channels of the numbers, which have a dimension for each of the value's, or one for that looked up."""
    numbers = op.axes("index", free=True)
    if len(numbers) == len(value):
        return numbers
    return tuple(numbers[0] if place == dim and numbers else None for place in range(len(value)))


@constants("gather")
def gathered(op: KnownOperator) -> Tensor:
    """What is equal all along the dimension is so after it."""
    read, dim = op.constant(0), op.dim(op.rank)
    low, high = read.amin(dim, True), read.amax(dim, True)
    narrow = [slice(size) if length > 1 else slice(None) for size, length in zip(op.shape, low.shape, strict=True)]
    return torch.where(low == high, low, torch.nan)[tuple(narrow)]
