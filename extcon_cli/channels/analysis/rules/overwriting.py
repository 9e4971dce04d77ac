"""Operators that write into a value: the result, a value of its own here, is the old one but for some positions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Axis, Index, Value, join_axes
from extcon_cli.channels.analysis.rules.pointwise import held_as, meet
from extcon_cli.channels.analysis.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.analysis.rules.shapes import by_number, compact
from extcon_cli.channels.analysis.trace import argument, holds_tensor, operator, shape, source


@flow("copy")
def copy(analysis: Analysis, node: fx.Node) -> Value:
    """All positions take another value: the channels of both are tied, and zero where the other's are."""
    met, other = meet(analysis, node), value_of(analysis, node.args[1])
    found = [None] * (len(met) - len(other)) + list(other)
    return tuple(
        axis and Axis(axis.positions, new.sources if new else (), axis.laid_out_by, new is None or new.zero)
        for axis, new in zip(met, found, strict=True)
    )


@constants("copy")
def copied(known: Known, node: fx.Node) -> Tensor:
    """The other value, as the old one's type holds it."""
    other = node.args[1]
    value = held_as(known[other], other.meta["val"].dtype, node.meta["val"].dtype)  # type: ignore[index,union-attr]
    return value.reshape((1,) * (len(shape(node)) - value.dim()) + value.shape)


@flow("slice_scatter", "select_scatter")
def overwrite(analysis: Analysis, node: fx.Node) -> Value:
    """Some positions are replaced by another value's, whose channels are tied to those that they replace."""
    value, other = value_of(analysis, node.args[0]), list(value_of(analysis, node.args[1]))
    dim = int(argument(node, "dim", 0)) % len(value)
    places = _written(node, dim)
    if operator(node) == "select_scatter":
        other.insert(dim, None)
    result: list[Axis | None] = []
    for place, (axis, new) in enumerate(zip(value, other, strict=True)):
        if axis is not None and place == dim:
            by_number(analysis, node, axis, places)
        if axis is None or new is None:
            analysis.freeze([axis, new], f"is written over by number in {source(node)}")
            result.append(axis)
        elif place == dim:
            analysis.tie(axis.positions[places], new.positions)
            result.append(_replaced(axis, new, places))
        else:
            analysis.tie(axis.positions, new.positions)
            result.append(join_axes((axis, new)))
    return tuple(result)


def _written(node: fx.Node, dim: int) -> Index:
    """The positions along a dimension that are replaced."""
    numbers = torch.arange(shape(node)[dim])
    if operator(node) == "select_scatter":
        return numbers[int(argument(node, "index"))].reshape(1).numpy()
    return numbers[slice(argument(node, "start"), argument(node, "end"), argument(node, "step", 1))].numpy()


def _replaced(axis: Axis, new: Axis, places: Index) -> Axis:
    """Each position with the sources of what it holds now."""
    kept = [
        (zero_source, np.where(np.isin(np.arange(len(rows)), places), -1, rows)) for zero_source, rows in axis.sources
    ]
    for zero_source, rows in new.sources:
        wide = np.full(len(axis.positions), -1, dtype=np.int64)
        wide[places] = rows
        kept.append((zero_source, wide))
    return Axis(axis.positions, tuple(kept), axis.laid_out_by, axis.zero and new.zero)


@constants("slice_scatter", "select_scatter")
def overwritten(known: Known, node: fx.Node) -> Tensor:
    """Run the operator itself on what is known, in the full shape."""
    full = [known[read].expand(shape(read)).double() for read in node.args[:2]]  # type: ignore[index,arg-type]
    return compact(node.target(*full, *node.args[2:], **node.kwargs))  # type: ignore[operator]


@flow("index_put", "index_fill")
def write_number(analysis: Analysis, node: fx.Node) -> Value:
    """One number at positions that are looked up; several values at several positions are not followed."""
    value, number = value_of(analysis, node.args[0]), _number(node)
    if operator(node) == "index_fill":
        indexed, numbers = [int(argument(node, "dim")) % len(value)], [node.args[2]]
    else:
        numbers = [index for index in node.args[1] if index is not None]  # type: ignore[union-attr]
        indexed = [dim for dim, index in enumerate(node.args[1]) if index is not None]  # type: ignore[arg-type]
    several = isinstance(number, fx.Node) and any(size > 1 for size in shape(number))
    boolean = any(holds_tensor(index) and index.meta["val"].dtype == torch.bool for index in numbers)  # type: ignore[union-attr]
    others = [axis for index in (*numbers, number) for axis in value_of(analysis, index)]
    stays = value if several or boolean else [value[dim] for dim in indexed]
    analysis.freeze((*stays, *others), f"is written over by number in {source(node)}")
    return value


def _number(node: fx.Node) -> object:
    return argument(node, "value") if operator(node) == "index_fill" else argument(node, "values")


@constants("index_put", "index_fill")
def number_written(known: Known, node: fx.Node) -> Tensor:
    """Known where the value was, and is what is written."""
    read, number = known[node.args[0]], _number(node)  # type: ignore[index]
    written = known[number].double() if isinstance(number, fx.Node) else torch.tensor(float(number))  # type: ignore[arg-type]
    if written.numel() > 1 or argument(node, "accumulate", False):
        return torch.full((1,) * len(shape(node)), torch.nan, dtype=torch.float64)
    return torch.where(read == written.reshape(()), read, torch.nan)
