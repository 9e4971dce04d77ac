"""Operators that move, join and cut positions: channels go where their positions go."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from extcon_cli.channels.axes import Analysis, Axis, Index, Site, Value, merge_sites
from extcon_cli.channels.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.trace import argument, operator, shape, source

VIEWS = ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")
MOVES = ("permute", "transpose", "t", "movedim", "expand", "slice", "select", "flip", "roll", "narrow")
CUTS = ("chunk", "split", "split_with_sizes", "unbind", "tensor_split")


@flow(*VIEWS)
def view(analysis: Analysis, node: fx.Node) -> Value:
    """Dimensions are merged or split: positions keep their order, and channels follow theirs.

    Where a dimension that carries channels is split, its channels run along the last part, the same in each of
    the first (a channel shuffle, for example).
    """
    read = node.args[0]
    value = value_of(analysis, read)
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
        positions = np.broadcast_to(np.arange(sizes[at]).reshape(shaped), sizes).reshape(-1)
        result.extend(_split(analysis, node, axis.take(positions), [shape(node)[dim] for dim in after]))
    return tuple(result)


def _split(analysis: Analysis, node: fx.Node, axis: Axis, sizes: list[int]) -> list[Axis | None]:
    """A run of positions laid out over `sizes`: its channels go to the last dimension longer than one."""
    long = [dim for dim, size in enumerate(sizes) if size > 1]
    result: list[Axis | None] = [None] * len(sizes)
    if not long:
        analysis.freeze([axis], f"is reduced to a single position in {source(node)}")
        return result
    layout = np.arange(len(axis.atoms)).reshape(-1, sizes[long[-1]])
    for row in layout[1:]:
        analysis.tie(axis.atoms[layout[0]], axis.atoms[row])
    result[long[-1]] = Axis(axis.atoms[layout[0]], merge_sites(axis.take(row) for row in layout))
    return result


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
        moved = node.target(numbers, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        target = next((d for d in range(moved.dim()) if moved.shape[d] > 1 and _varies(moved, d)), None)
        positions = np.empty(0, np.int64)
        if target is not None:
            positions = moved.movedim(target, -1).reshape(-1, moved.shape[target])[0].numpy()
        if len(positions) != sizes[dim] or (operator(node) == "roll" and positions[0] != 0):
            # the bounds stand in the model's code: after a removal they would pick other channels
            analysis.freeze([axis], f"{operator(node)} picks positions by number in {source(node)}")
        if target is not None:
            result[target] = axis.take(positions)
    return tuple(result)


def _varies(numbers: Tensor, dim: int) -> bool:
    return bool((numbers.narrow(dim, 0, 1) != numbers.narrow(dim, 1, 1)).any())


@flow("cat", "concat")
def concatenate(analysis: Analysis, node: fx.Node) -> Value:
    """Along the joined dimension channels lie behind each other; along the others they are tied."""
    tensors = [tensor for tensor in node.args[0] if len(shape(tensor)) == len(shape(node))]  # type: ignore[union-attr,arg-type]
    joined = int(argument(node, "dim", 0)) % len(shape(node))
    values = [value_of(analysis, tensor) for tensor in tensors]
    result: list[Axis | None] = []
    for dim in range(len(shape(node))):
        axes = [value[dim] for value in values]
        carrying = [axis for axis in axes if axis is not None]
        if dim == joined:
            result.append(_lay(analysis, node, axes, [shape(tensor)[dim] for tensor in tensors]))  # type: ignore[arg-type]
        elif not carrying:
            result.append(None)
        else:
            if len(carrying) < len(axes):
                analysis.freeze(carrying, f"is joined with a value without channels in {source(node)}")
            for other in carrying[1:]:
                analysis.tie(carrying[0].atoms, other.atoms)
            result.append(Axis(carrying[0].atoms, merge_sites(carrying)))
    return tuple(result)


def _lay(analysis: Analysis, node: fx.Node, axes: list[Axis | None], sizes: list[int]) -> Axis | None:
    if all(axis is None for axis in axes):
        return None
    atoms: list[Index] = []
    sites: list[tuple[Site, Index]] = []
    start, total = 0, sum(sizes)
    for axis, size in zip(axes, sizes, strict=True):
        if axis is None:  # its positions stay: they get atoms of their own, frozen
            fresh = analysis.unnamed(size)
            analysis.freeze([Axis(fresh)], f"reads what no removable channel feeds in {source(node)}")
            axis = Axis(fresh)
        atoms.append(axis.atoms)
        for site, rows in axis.sites:
            padded = np.full(total, -1, dtype=np.int64)
            padded[start : start + size] = rows
            sites.append((site, padded))
        start += size
    return Axis(np.concatenate(atoms), tuple(sites))


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
    if len(set(sizes)) == 1:  # the parts stay equal only where each loses the same positions
        for part in taken[1:]:
            analysis.tie(taken[0].atoms, part.atoms)
    return tuple((*value[:dim], part, *value[dim + 1 :]) for part in taken)


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
    full = read.expand(shape(node.args[0])).contiguous()  # type: ignore[arg-type]
    return compact(node.target(full, *node.args[1:], **node.kwargs))  # type: ignore[operator]


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
        first = value.narrow(dim, 0, 1)
        if value.shape[dim] > 1 and torch.equal(
            value.nan_to_num(nan=3e300), first.nan_to_num(nan=3e300).expand_as(value)
        ):
            value = first
    return value
