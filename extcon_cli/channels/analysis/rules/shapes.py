"""Operators that move, join and cut positions: channels go where their positions go."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Axis, Index, SizedView, Value, ZeroSource, join_axes
from extcon_cli.channels.analysis.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.analysis.trace import argument, operator, shape, source

VIEWS = ("view", "_unsafe_view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze")
REPEATS = ("repeat", "tile", "repeat_interleave")
MOVES = ("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "numpy_T", "mT", "expand", "expand_as",
         "slice", "select", "flip", "roll", "narrow", *REPEATS)  # fmt: skip
CUTS = ("chunk", "split", "split_with_sizes", "unbind", "tensor_split")


@flow(*VIEWS)
def view(analysis: Analysis, node: fx.Node) -> Value:
    """Dimensions are merged or split: positions keep their order, and channels follow theirs.

    Where a dimension that carries channels is split, its channels run along the last part, the same in each of
    the first (a channel shuffle, for example).
    """
    read = node.args[0]
    value = value_of(analysis, read)
    if node.meta["val"].dtype != read.meta["val"].dtype:  # type: ignore[union-attr]
        analysis.freeze(value, f"is read as another type in {source(node)}")
        return (None,) * len(shape(node))
    result: list[Axis | None] = []
    for before, after in _blocks(shape(read), shape(node)):  # type: ignore[arg-type]
        axes = [value[dim] for dim in before]
        sizes = [shape(read)[dim] for dim in before]  # type: ignore[arg-type]
        carrying = [index for index, axis in enumerate(axes) if axis is not None and sizes[index] > 1]
        if len(carrying) > 1:
            analysis.freeze(axes, f"two kinds of channels are mixed by {operator(node)} in {source(node)}")
        if len(carrying) != 1:
            result.extend([None] * len(after))
            continue
        axis, at = axes[carrying[0]], carrying[0]
        assert axis is not None
        shaped = [1] * len(sizes)
        shaped[at] = sizes[at]
        places = np.broadcast_to(np.arange(sizes[at]).reshape(shaped), sizes).reshape(-1)
        result.extend(_split(analysis, node, axis.take(places), [shape(node)[dim] for dim in after]))
    return tuple(result)


def _split(analysis: Analysis, node: fx.Node, axis: Axis, sizes: list[int]) -> list[Axis | None]:
    """A run of positions laid out over `sizes`: its channels go to one dimension longer than one.

    That is the one that they came from, if the run was merged of several; else the last, unless a later contraction
    sums over it: then the one before (attention heads).
    """
    long = [dim for dim, size in enumerate(sizes) if size > 1]
    result: list[Axis | None] = [None] * len(sizes)
    if not long:
        analysis.freeze([axis], f"is reduced to a single position in {source(node)}")
        return result
    if len(long) == 1:
        analysis.sized_views.append(SizedView(node, axis))
        result[long[0]] = axis
        return result
    laid = np.arange(len(axis.positions)).reshape(sizes)
    layouts = {dim: np.moveaxis(laid, dim, -1).reshape(-1, sizes[dim]) for dim in long}
    came_from = [dim for dim in long if (axis.positions[layouts[dim]] == axis.positions[layouts[dim][0]]).all()]
    chosen = came_from[-1] if came_from else long[max(0, len(long) - 1 - analysis.view_layouts.get(node, 0))]
    along = _merged(analysis, axis, layouts[chosen], None if came_from or chosen == long[0] else node)
    analysis.sized_views.append(SizedView(node, along))
    result[chosen] = along
    return result


def _merged(analysis: Analysis, axis: Axis, layout: Index, laid_out_by: fx.Node | None = None) -> Axis:
    """The axis of positions laid out in rows, the i-th of each the same channel."""
    positions = _distinct(axis.positions[layout])
    for row in positions[1:]:
        analysis.tie(positions[0], row)
    sources = tuple((zero_source, row) for zero_source, rows in axis.sources for row in _distinct(rows[layout]))
    return Axis(positions[0], sources, laid_out_by, axis.zero)


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


@flow(*MOVES)
def move(analysis: Analysis, node: fx.Node) -> Value:
    """Ask the operator itself: run it on the numbers of the positions along each dimension."""
    read = node.args[0]
    value, sizes = value_of(analysis, read), shape(read)  # type: ignore[arg-type]
    result: list[Axis | None] = [None] * len(shape(node))
    for dim, axis in enumerate(value):
        if axis is None or sizes[dim] == 1:
            continue
        numbers = torch.arange(sizes[dim]).reshape([-1 if d == dim else 1 for d in range(len(sizes))]).expand(sizes)
        moved = _moved(node, numbers)
        target = next((d for d in range(moved.dim()) if moved.shape[d] > 1 and _varies(moved, d)), None)
        places = np.empty(0, np.int64)
        if target is not None:
            places = moved.movedim(target, -1).reshape(-1, moved.shape[target])[0].numpy()
        if operator(node) in REPEATS and len(places):
            pass  # each position as often as any other, however many there are
        elif operator(node) == "slice":
            by_number(analysis, node, axis, places)
        elif len(places) != sizes[dim] or (operator(node) == "roll" and places[0] != 0):
            # the bounds stand in the model's code: after a removal they would pick other channels
            analysis.freeze([axis], f"{operator(node)} picks positions by number in {source(node)}")
        if target is not None:
            result[target] = axis.take(places)
    return tuple(result)


def _moved(node: fx.Node, read: Tensor) -> Tensor:
    """The operator itself, run on another tensor of the same shape."""
    if operator(node) in (*VIEWS, "expand_as"):
        return read.expand(shape(node)) if operator(node) == "expand_as" else read.reshape(shape(node))
    result: Tensor = node.target(read, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return result


def by_number(analysis: Analysis, node: fx.Node, axis: Axis, places: Index) -> None:
    """Positions whose bounds stand in the model's code: one of several equal runs, of what is left too, or frozen."""
    length, size = len(places), len(axis.positions)
    if length and size % length == 0 and places[0] % length == 0 and places[-1] - places[0] < length:
        for block in axis.positions.reshape(-1, length):  # a half, a third
            analysis.tie(axis.positions[:length], block)
    else:
        analysis.freeze([axis], f"{operator(node)} picks positions by number in {source(node)}")


def _varies(numbers: Tensor, dim: int) -> bool:
    return bool((numbers.narrow(dim, 0, 1) != numbers.narrow(dim, 1, 1)).any())


@flow("cat", "concat", "stack")
def concatenate(analysis: Analysis, node: fx.Node) -> Value:
    """Along the joined dimension channels lie behind each other; along the others they are tied."""
    tensors: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    along = int(argument(node, "dim", 0)) % len(shape(node))
    values = [value_of(analysis, tensor) for tensor in tensors]
    sizes = [1] * len(tensors)
    if operator(node) == "stack":
        values = [(*value[:along], None, *value[along:]) for value in values]
    else:
        tensors = [tensor for tensor in tensors if len(shape(tensor)) == len(shape(node))]  # not an empty one
        values = [value_of(analysis, tensor) for tensor in tensors]
        sizes = [shape(tensor)[along] for tensor in tensors]
    result: list[Axis | None] = []
    for dim in range(len(shape(node))):
        axes = [value[dim] for value in values]
        carrying = [axis for axis in axes if axis is not None]
        if dim == along:
            result.append(_lay(analysis, node, axes, sizes))
        elif not carrying:
            result.append(None)
        else:
            if len(carrying) < len(axes):
                analysis.freeze(carrying, f"is joined with a value without channels in {source(node)}")
            for other in carrying[1:]:
                analysis.tie(carrying[0].positions, other.positions)
            result.append(join_axes(carrying))
    return tuple(result)


def _lay(analysis: Analysis, node: fx.Node, axes: list[Axis | None], sizes: list[int]) -> Axis | None:
    if all(axis is None for axis in axes):
        return None
    positions: list[Index] = []
    sources: list[tuple[ZeroSource, Index]] = []
    start, total = 0, sum(sizes)
    for axis, size in zip(axes, sizes, strict=True):
        if axis is None:  # its indices stay: they get positions of their own, frozen
            fresh = analysis.new_positions(size)
            analysis.freeze([Axis(fresh)], f"reads what no removable channel feeds in {source(node)}")
            axis = Axis(fresh)
        positions.append(axis.positions)
        for zero_source, rows in axis.sources:
            padded = np.full(total, -1, dtype=np.int64)
            padded[start : start + size] = rows
            sources.append((zero_source, padded))
        start += size
    view = next((axis.laid_out_by for axis in axes if axis and axis.laid_out_by), None)
    return Axis(np.concatenate(positions), tuple(sources), view)


@flow("pad", "constant_pad_nd")
def pad(analysis: Analysis, node: fx.Node) -> Value:
    """Positions are added at the ends of the last dimensions; those beside channels stay, the channels may go."""
    value = list(value_of(analysis, node.args[0]))
    for pair, (before, after) in enumerate(_pads(node)):
        dim, size = len(value) - 1 - pair, shape(node.args[0])[len(value) - 1 - pair]  # type: ignore[arg-type]
        axis = value[dim]
        if axis is None or before == after == 0:
            continue
        if min(before, after) < 0 or argument(node, "mode", "constant") != "constant":
            analysis.freeze([axis], f"pad picks positions by number in {source(node)}")
            value[dim] = None
        else:
            value[dim] = _lay(analysis, node, [None, axis, None], [before, size, after])
    return tuple(value)


def _pads(node: fx.Node) -> list[tuple[int, int]]:
    pads = list(node.args[1])  # type: ignore[arg-type]
    return list(zip(pads[::2], pads[1::2], strict=True))


@constants("pad", "constant_pad_nd")
def padded(known: Known, node: fx.Node) -> Tensor:
    """Along channels constants lie behind each other; a map with borders is known where it is the padding's value."""
    read, fill = known[node.args[0]], argument(node, "value", 0.0) or 0.0  # type: ignore[index]
    mode = argument(node, "mode", "constant")
    for pair, (before, after) in enumerate(_pads(node)):
        dim, size = read.dim() - 1 - pair, shape(node.args[0])[read.dim() - 1 - pair]  # type: ignore[arg-type]
        if before == after == 0 or mode != "constant":  # reflected and repeated constants are the constant
            continue
        if read.shape[dim] == 1:
            read = torch.where(read == fill, read, torch.nan)
        else:
            ends = [read.new_full((*read.shape[:dim], n, *read.shape[dim + 1 :]), fill) for n in (before, after)]
            read = torch.cat([ends[0], read.expand(*read.shape[:dim], size, *read.shape[dim + 1 :]), ends[1]], dim)
    return read


@flow("pixel_shuffle", "pixel_unshuffle")
def shuffle_pixels(analysis: Analysis, node: fx.Node) -> Value:
    """r^2 channels behind each other become one with r times the width, or the other way round."""
    value, factor = value_of(analysis, node.args[0]), int(argument(node, "upscale_factor") or node.args[1]) ** 2  # type: ignore[arg-type]
    axis = value[-3]
    analysis.freeze(value[-2:], f"{operator(node)} runs along it in {source(node)}")
    if axis is None:
        return (*value[:-3], None, None, None)
    if operator(node) == "pixel_unshuffle":
        return (*value[:-3], axis.take(np.arange(len(axis.positions)).repeat(factor)), None, None)
    layout = np.arange(len(axis.positions)).reshape(-1, factor).T
    return (*value[:-3], _merged(analysis, axis, layout), None, None)


@flow(*CUTS)
def cut(analysis: Analysis, node: fx.Node) -> tuple[Value, ...]:
    """Each part carries the channels of its positions."""
    value = value_of(analysis, node.args[0])
    rank = len(value)
    dim = int(argument(node, "dim", 0)) % rank
    parts = node.meta["val"]
    if operator(node) == "unbind":
        analysis.freeze([value[dim]], f"unbind takes single positions in {source(node)}")
        return tuple((*value[:dim], *value[dim + 1 :]) for _ in parts)
    axis = value[dim]
    if axis is None:
        return (value,) * len(parts)
    sizes = [part.shape[dim] for part in parts]
    if len(set(sizes)) > 1:
        analysis.freeze([axis], f"{operator(node)} cuts into unequal parts in {source(node)}")
    starts = np.cumsum([0, *sizes[:-1]])
    taken = [axis.take(np.arange(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    analysis.sized_views.append(SizedView(node, taken[0]))
    if len(set(sizes)) == 1:  # the parts stay equal only where each loses the same positions
        for part in taken[1:]:
            analysis.tie(taken[0].positions, part.positions)
    return tuple((*value[:dim], part, *value[dim + 1 :]) for part in taken)


@flow("glu")
def gate(analysis: Analysis, node: fx.Node) -> Value:
    """The first half times the sigmoid of the second: both lose the same positions; zero where the first is."""
    value = value_of(analysis, node.args[0])
    dim = int(argument(node, "dim", -1)) % len(value)
    axis = value[dim]
    if axis is None:
        return value
    first, second = (axis.take(half) for half in np.arange(len(axis.positions)).reshape(2, -1))
    analysis.tie(first.positions, second.positions)
    return (*value[:dim], first, *value[dim + 1 :])


@constants("glu")
def gated(known: Known, node: fx.Node) -> Tensor:
    """Run the operator itself on what is known; zero where the first half is."""
    full = known[node.args[0]].expand(shape(node.args[0])).double()  # type: ignore[index,arg-type]
    first = full.chunk(2, int(argument(node, "dim", -1)))[0]
    result: Tensor = node.target(full, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return compact(torch.where(first == 0, 0.0, result))


@flow("getitem")
def pick(analysis: Analysis, node: fx.Node) -> Value:
    """One of the results of an operator that returns several."""
    values = analysis.values.get(node.args[0], ())  # type: ignore[arg-type]
    return values[node.args[1]] if values else (None,) * len(shape(node))  # type: ignore[return-value,index]


@constants(*VIEWS, *MOVES)
def moved(known: Known, node: fx.Node) -> Tensor:
    """Run the operator itself on what is known, in the full shape."""
    read = known[node.args[0]]  # type: ignore[index]
    if read.numel() == 1 and bool(read.isnan()):
        return read.reshape((1,) * len(shape(node)))
    if node.meta["val"].dtype != node.args[0].meta["val"].dtype:  # type: ignore[union-attr]
        return torch.full((1,) * len(shape(node)), torch.nan, dtype=torch.float64)
    return compact(_moved(node, read.expand(shape(node.args[0]))))  # type: ignore[arg-type]


@constants("pixel_shuffle", "pixel_unshuffle")
def shuffled(known: Known, node: fx.Node) -> Tensor:
    """Run the operator itself on what is known, in the full shape."""
    full = known[node.args[0]].expand(shape(node.args[0])).contiguous()  # type: ignore[index,arg-type]
    return compact(node.target(full, *node.args[1:]))  # type: ignore[operator]


@constants("stack")
def stacked(known: Known, node: fx.Node) -> Tensor:
    """What is known of each part, behind each other."""
    parts = [known[part].expand(shape(part)).double() for part in node.args[0]]  # type: ignore[union-attr,index,arg-type]
    return compact(torch.stack(parts, int(argument(node, "dim", 0))))


@constants("cat", "concat")
def concatenated(known: Known, node: fx.Node) -> Tensor:
    """What is known of each part, behind each other."""
    dim = int(argument(node, "dim", 0)) % len(shape(node))
    parts = [known[part].expand(shape(part)) for part in node.args[0]]  # type: ignore[union-attr,index,arg-type]
    return compact(torch.cat([part for part in parts if part.numel()], dim))


@constants(*CUTS)
def parts(known: Known, node: fx.Node) -> list[Tensor]:
    """What is known of each part."""
    full = known[node.args[0]].expand(shape(node.args[0]))  # type: ignore[index,arg-type]
    return [compact(part) for part in node.target(full, *node.args[1:], **node.kwargs)]  # type: ignore[operator]


@constants("getitem")
def picked(known: Known, node: fx.Node) -> Tensor:
    """One of the results of an operator that returns several."""
    return known[node.args[0]][node.args[1]]  # type: ignore[index]


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
