"""Views: the same positions in the same order under another shape. Channels run along one dimension of the new one."""

from __future__ import annotations

import numpy as np
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Axis, Index, SizedView, Value
from extcon_cli.channels.analysis.known import compact
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, dtype, shape
from extcon_cli.channels.analysis.rules.registry import constants, flow

VIEWS = ("view", "_unsafe_view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze")


@flow(*VIEWS)
def view(op: FlowOperator) -> Value:
    """Dimensions are merged or split: positions keep their order, and channels follow theirs.

    Where a dimension that carries channels is split, its channels run along the last part, the same in each of
    the first (a channel shuffle, for example).
    """
    value, sizes = op.axes(0, free=True), shape(op.input(0))
    if op.dtype != dtype(op.input(0)):
        op.freeze(value, "is read as another type")
        return (None,) * op.rank
    if op.name == "squeeze":
        dims = [dim % len(sizes) for dim in op.integers("dim")] or range(len(sizes))
        op.analysis.never_single += [axis.positions for dim in dims if (axis := value[dim]) is not None]
    result: list[Axis | None] = []
    for before, after in _blocks(sizes, op.shape):
        axes = [value[dim] for dim in before]
        axis = _merge(op, axes, [sizes[dim] for dim in before])
        result.extend([None] * len(after) if axis is None else _lay_out(op, axis, [op.shape[dim] for dim in after]))
    return tuple(result)


def _merge(op: FlowOperator, axes: list[Axis | None], sizes: list[int]) -> Axis | None:
    """The axis of several dimensions laid behind each other, if one of them alone carries channels."""
    carrying = [place for place, axis in enumerate(axes) if axis is not None and sizes[place] > 1 and not axis.free]
    repeated = [place for place, axis in enumerate(axes) if axis is not None and sizes[place] > 1 and axis.free]
    carrying = carrying or repeated[:1] * (len(repeated) == 1)
    if len(carrying) > 1:
        op.freeze(axes, f"two kinds of channels are mixed by {op.name}")
    if len(carrying) != 1:
        return None
    axis = axes[carrying[0]]
    assert axis is not None
    numbers = np.arange(sizes[carrying[0]]).reshape([-1 if d == carrying[0] else 1 for d in range(len(sizes))])
    return axis.take(np.broadcast_to(numbers, sizes).reshape(-1))


def _lay_out(op: FlowOperator, axis: Axis, sizes: list[int]) -> list[Axis | None]:
    """A run of positions laid out over `sizes`: its channels go to one dimension longer than one.

    That is the one that they came from, if the run was merged of several; else the last, unless a later contraction
    sums over it: then the one before (attention heads).
    """
    long = [dim for dim, size in enumerate(sizes) if size > 1]
    result: list[Axis | None] = [None] * len(sizes)
    if not long:
        op.freeze([axis], "is reduced to a single position")
        return result
    if len(long) == 1:
        chosen, laid_out = long[0], axis
    else:
        places = np.arange(len(axis.positions)).reshape(sizes)
        layouts = {dim: np.moveaxis(places, dim, -1).reshape(-1, sizes[dim]) for dim in long}
        came_from = [dim for dim in long if (axis.positions[layouts[dim]] == axis.positions[layouts[dim][0]]).all()]
        earlier = op.analysis.view_layouts.get(op.node, 0)
        chosen = came_from[-1] if came_from else long[max(0, len(long) - 1 - earlier)]
        had_choice = not came_from and chosen != long[0]
        laid_out = tie_rows(op, axis, layouts[chosen], op.node if had_choice else None)
    op.analysis.sized_views.append(SizedView(op.node, laid_out))
    result[chosen] = laid_out
    return result


def tie_rows(op: FlowOperator, axis: Axis, layout: Index, laid_out_by: fx.Node | None = None) -> Axis:
    """The axis of positions laid out in rows, the i-th of each the same channel."""
    positions = _distinct(axis.positions[layout])
    for row in positions[1:]:
        op.analysis.tie(positions[0], row)
    sources = tuple((zero_source, row) for zero_source, rows in axis.sources for row in _distinct(rows[layout]))
    return Axis(positions[0], sources, laid_out_by, axis.zero, axis.free)


def _distinct(rows: Index) -> Index:
    """The first row and those unlike it."""
    return rows[np.append(True, (rows[1:] != rows[0]).any(1))]


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions that hold the same positions before and after a view."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        size_left = before[i] if left else 1
        size_right = after[j] if right else 1
        i, j = i + len(left), j + len(right)
        while size_left != size_right:
            if size_left < size_right:
                size_left *= before[i]
                left.append(i)
                i += 1
            else:
                size_right *= after[j]
                right.append(j)
                j += 1
        blocks.append((left, right))
    return blocks


@constants(*VIEWS)
def viewed(op: KnownOperator) -> Tensor:
    """What is known, in the full shape, under the new one."""
    read = op.constant(0)
    if (read.numel() == 1 and bool(read.isnan())) or op.dtype != dtype(op.input(0)):
        return op.unknown()
    return compact(op.full(0).reshape(op.shape))


@flow("pixel_shuffle", "pixel_unshuffle")
def shuffle_pixels(op: FlowOperator) -> Value:
    """r^2 channels behind each other become one with r times the width, or the other way round."""
    *outer, axis, high, wide = op.axes(0)
    factor = op.integer(1) ** 2
    op.freeze([high, wide], f"{op.name} runs along it")
    if axis is None:
        return (*outer, None, None, None)
    if op.name == "pixel_unshuffle":
        return (*outer, axis.take(np.arange(len(axis.positions)).repeat(factor)), None, None)
    layout = np.arange(len(axis.positions)).reshape(-1, factor).T
    return (*outer, tie_rows(op, axis, layout), None, None)


@constants("pixel_shuffle", "pixel_unshuffle")
def shuffled(op: KnownOperator) -> Tensor:
    """Run the operator itself on what is known, in the full shape."""
    return compact(op.run(op.full(0).contiguous()))
