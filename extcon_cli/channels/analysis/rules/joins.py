"""Operators that lay values behind each other or cut them into parts: each part keeps its own channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
import torch
from torch import Tensor

from extcon_cli.channels.analysis.axes import Axis, Index, SizedView, Value, ZeroSource, join_axes
from extcon_cli.channels.analysis.known import Known, compact
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, shape
from extcon_cli.channels.analysis.rules.registry import constants, flow

MOST_PARTS = 8  # equal ones, into which a dimension is cut: (1, 2) is three
CUTS = ("chunk", "split", "split_with_sizes", "unbind", "tensor_split")


@flow("cat", "concat")
def concatenate(op: FlowOperator) -> Value:
    """Along the joined dimension channels lie behind each other; along the others they are tied."""
    dim = op.dim(op.rank)
    parts = [part for part in op.inputs(0) if len(shape(part)) == op.rank]  # not an empty one
    return _join(op, [op.axes_of(part) for part in parts], dim, [shape(part)[dim] for part in parts])


@flow("stack")
def stack(op: FlowOperator) -> Value:
    """Along the new dimension there are no channels; along the others they are tied."""
    dim = op.dim(op.rank)
    values = [op.axes_of(part) for part in op.inputs(0)]
    return _join(op, [(*value[:dim], None, *value[dim:]) for value in values], dim, [1] * len(values))


def _join(op: FlowOperator, values: Sequence[Value], along: int, sizes: list[int]) -> Value:
    """Values laid behind each other along one dimension, where they have these sizes."""
    result: list[Axis | None] = []
    for dim in range(op.rank):
        axes = [value[dim] for value in values]
        carrying = [axis for axis in axes if axis is not None]
        if dim == along:
            result.append(_lay_behind(op, axes, sizes))
        elif not carrying:
            result.append(None)
        else:
            if len(carrying) < len(axes):
                op.freeze(carrying, "is joined with a value without channels")
            for other in carrying[1:]:
                op.tie(carrying[0], other)
            result.append(join_axes(carrying))
    return tuple(result)


def _lay_behind(op: FlowOperator, axes: Sequence[Axis | None], sizes: Sequence[int]) -> Axis | None:
    """The axis of several behind each other; those without channels get positions of their own, which stay."""
    if all(axis is None for axis in axes):
        return None
    positions: list[Index] = []
    sources: list[tuple[ZeroSource, Index]] = []
    start, total = 0, sum(sizes)
    for axis, size in zip(axes, sizes, strict=True):
        if axis is None:
            axis = Axis(op.analysis.new_positions(size))
            op.freeze([axis], "reads what no removable channel feeds")
        positions.append(axis.positions)
        for zero_source, rows in axis.sources:
            wide = np.full(total, -1, dtype=np.int64)
            wide[start : start + size] = rows
            sources.append((zero_source, wide))
        start += size
    laid_out_by = next((axis.laid_out_by for axis in axes if axis and axis.laid_out_by), None)
    return Axis(np.concatenate(positions), tuple(sources), laid_out_by)


@constants("cat", "concat")
def concatenated(op: KnownOperator) -> Tensor:
    """What is known of each part, behind each other."""
    parts = [op.full_of(part) for part in op.inputs(0)]
    return compact(torch.cat([part for part in parts if part.numel()], op.dim(op.rank)))


@constants("stack")
def stacked(op: KnownOperator) -> Tensor:
    """What is known of each part, behind each other."""
    return compact(torch.stack([op.full_of(part).double() for part in op.inputs(0)], op.integer("dim")))


@flow("pad", "constant_pad_nd")
def pad(op: FlowOperator) -> Value:
    """Positions are added at the ends of the last dimensions; those beside channels stay, the channels may go.

    Where as many are added at both ends, the i-th of each may go together: a shortcut that is padded to the width of
    what it is added to, half of it on either side.
    """
    value, sizes = list(op.axes(0)), shape(op.input(0))
    for dim, before, after in _pads(op):
        axis = value[dim]
        if axis is None or before == after == 0:
            continue
        if min(before, after) < 0 or not _with_a_number(op):
            op.freeze([axis], "pad picks positions by number")
            value[dim] = None
            continue
        both = Axis(op.analysis.new_positions(before)) if before == after else None  # halves of what is missing
        value[dim] = _lay_behind(op, [both, axis, both], [before, sizes[dim], after])
    return tuple(value)


def _pads(op: Operator) -> list[tuple[int, int, int]]:
    """(dimension, before, after), from the last dimension on."""
    pads, last = op.integers("pad"), len(shape(op.input(0))) - 1
    return [(last - pair, *ends) for pair, ends in enumerate(zip(pads[::2], pads[1::2], strict=True))]


def _with_a_number(op: Operator) -> bool:
    """Whether it puts a number there, and not what lies at the border."""
    return bool(op.value("mode", "constant") == "constant")


@constants("pad", "constant_pad_nd")
def padded(op: KnownOperator) -> Tensor:
    """Along channels constants lie behind each other; a map with borders is known where it is the padding's value.

    Where nothing is known of what is read and one dimension is padded, that may be the one of channels.
    """
    read, number, sizes = op.constant(0), op.value("value", 0.0) or 0.0, shape(op.input(0))
    pads = [pad for pad in _pads(op) if pad[1:] != (0, 0)] if _with_a_number(op) else []  # else constants stay
    for dim, before, after in pads:
        if read.shape[dim] == 1 and not (len(pads) == 1 and bool(read.isnan().all())):
            read = torch.where(read == number, read, torch.nan)
        else:
            outer, inner = read.shape[:dim], read.shape[dim + 1 :]
            left, right = (read.new_full((*outer, length, *inner), number) for length in (before, after))
            read = torch.cat([left, read.expand(*outer, sizes[dim], *inner), right], dim)
    return read


@flow(*CUTS)
def cut(op: FlowOperator) -> list[Value]:
    """Each part carries the channels of its positions."""
    value = op.axes(0)
    dim = op.dim(len(value))
    before, axis, after = value[:dim], value[dim], value[dim + 1 :]
    if op.name == "unbind":
        op.freeze([axis], "unbind takes single positions")
        return [(*before, *after) for _ in op.results]
    if axis is None:
        return [value] * len(op.results)
    sizes = [int(part.shape[dim]) for part in op.results]
    starts = np.cumsum([0, *sizes[:-1]])
    parts = [axis.take(np.arange(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    op.analysis.sized_views.append(SizedView(op.node, parts[0]))
    step = gcd(*sizes)
    if len(set(sizes)) > 1 and (step == 1 or step * MOST_PARTS < len(axis.positions)):
        op.freeze([axis], f"{op.name} cuts into unequal parts")
    else:  # the parts stay in proportion only where each loses the same positions
        for start in range(step, len(axis.positions), step):
            op.analysis.tie(axis.positions[:step], axis.positions[start : start + step])
    return [(*before, part, *after) for part in parts]


@constants(*CUTS)
def parts(op: KnownOperator) -> list[Tensor]:
    """What is known of each part."""
    return [compact(part) for part in op.run(op.full(0))]


@flow("glu")
def gate(op: FlowOperator) -> Value:
    """The first half times the sigmoid of the second: both lose the same positions; zero where the first is."""
    value = op.axes(0)
    dim = op.dim(len(value))
    axis = value[dim]
    if axis is None:
        return value
    first, second = (axis.take(half) for half in np.arange(len(axis.positions)).reshape(2, -1))
    op.tie(first, second)
    return (*value[:dim], first, *value[dim + 1 :])


@constants("glu")
def gated(op: KnownOperator) -> Tensor:
    """Run the operator itself on what is known; zero where the first half is."""
    full = op.full(0).double()
    first = full.chunk(2, op.integer("dim"))[0]
    result: Tensor = op.run(full)
    return compact(torch.where(first == 0, 0.0, result))


@flow("getitem")
def pick(op: FlowOperator) -> Value:
    """One of the results of an operator that returns several."""
    values = op.analysis.values.get(op.input(0))
    return values[op.integer(1)] if isinstance(values, list) else (None,) * op.rank


@constants("getitem")
def picked(op: KnownOperator) -> Known:
    """One of the results of an operator that returns several."""
    found = op.known[op.input(0)]
    assert isinstance(found, Sequence)
    return found[op.integer(1)]
