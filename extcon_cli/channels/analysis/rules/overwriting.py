"""Operators that write into a value: the result, a value of its own here, is the old one but for some positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Axis, Index, Value, join_axes
from extcon_cli.channels.analysis.known import compact, held_as, in_front
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, dtype, holds_tensor, shape
from extcon_cli.channels.analysis.rules.moves import by_number
from extcon_cli.channels.analysis.rules.pointwise import meet
from extcon_cli.channels.analysis.rules.registry import constants, flow


@flow("copy")
def copy(op: FlowOperator) -> Value:
    """All positions take another value: the channels of both are tied, and zero where the other's are."""
    met, other = meet(op), op.axes(1)
    in_front_of_other = [None] * (len(met) - len(other))
    return tuple(
        axis and Axis(axis.positions, new.sources if new else (), axis.laid_out_by, new is None or new.zero)
        for axis, new in zip(met, (*in_front_of_other, *other), strict=True)
    )


@constants("copy")
def copied(op: KnownOperator) -> Tensor:
    """The other value, as the old one's type holds it."""
    return in_front(held_as(op.constant(1), dtype(op.input(1)), op.dtype), op.rank)


@flow("slice_scatter", "select_scatter")
def overwrite(op: FlowOperator) -> Value:
    """Some positions are replaced by another value's, whose channels are tied to those that they replace."""
    value, other = op.axes(0), list(op.axes(1))
    dim = op.dim(len(value))
    places = _written(op, dim)
    if op.name == "select_scatter":
        other.insert(dim, None)
    result: list[Axis | None] = []
    for at, (axis, new) in enumerate(zip(value, other, strict=True)):
        if axis is not None and at == dim:
            by_number(op, axis, places)
        if axis is None or new is None:
            op.freeze([axis, new], "is written over by number")
            result.append(axis)
        elif at == dim:
            op.analysis.tie(axis.positions[places], new.positions)
            result.append(_replaced(axis, new, places))
        else:
            op.tie(axis, new)
            result.append(join_axes((axis, new)))
    return tuple(result)


def _written(op: Operator, dim: int) -> Index:
    """The places along a dimension that are replaced."""
    places = np.arange(op.shape[dim])
    if op.name == "select_scatter":
        return places[op.integer("index")].reshape(1)
    return places[slice(op.value("start"), op.value("end"), op.integer("step"))]


def _replaced(axis: Axis, new: Axis, places: Index) -> Axis:
    """Each place with the sources of what it holds now."""
    gone = np.isin(np.arange(len(axis.positions)), places)
    sources = [(zero_source, np.where(gone, -1, rows)) for zero_source, rows in axis.sources]
    for zero_source, rows in new.sources:
        wide = np.full(len(axis.positions), -1, dtype=np.int64)
        wide[places] = rows
        sources.append((zero_source, wide))
    return Axis(axis.positions, tuple(sources), axis.laid_out_by, axis.zero and new.zero)


@constants("slice_scatter", "select_scatter")
def overwritten(op: KnownOperator) -> Tensor:
    """Run the operator itself on what is known, in the full shape."""
    return compact(op.run(op.full(0).double(), op.full(1).double()))


@flow("index_put", "index_fill")
def write_number(op: FlowOperator) -> Value:
    """One number at positions that are looked up; several values at several positions are not followed."""
    value, number = op.axes(0), _number(op)
    if op.name == "index_fill":
        indexed, indices = [op.dim(len(value))], [op.input("index")]
    else:
        indexed = [dim for dim, numbers in enumerate(op.value("indices")) if numbers is not None]
        indices = op.inputs("indices")
    several = isinstance(number, fx.Node) and any(size > 1 for size in shape(number))
    boolean = any(dtype(numbers) == torch.bool for numbers in indices if holds_tensor(numbers))
    stays = value if several or boolean else [value[dim] for dim in indexed]
    others = [axis for read in (*indices, number) for axis in op.axes_of(read)]
    op.freeze((*stays, *others), "is written over by number")
    return value


def _number(op: Operator) -> Any:
    """What is written: a number, or a value of the graph."""
    return op.value("value" if op.name == "index_fill" else "values")


@constants("index_put", "index_fill")
def number_written(op: KnownOperator) -> Tensor:
    """Known where the value was, and is what is written."""
    read, written = op.constant(0), op.constant_of(_number(op))
    if written.numel() > 1 or op.flag("accumulate"):
        return op.unknown()
    return torch.where(read == written.reshape(()), read, torch.nan)
