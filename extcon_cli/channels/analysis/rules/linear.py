"""Linear maps: they read the channels of their input and write new ones. Here channels begin and end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Axis, Consumer, Value, ZeroSource, join_axes
from extcon_cli.channels.analysis.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.analysis.trace import argument, operator, shape, source

TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", *TRANSPOSED)


@flow("linear")
def linear(analysis: Analysis, node: fx.Node) -> Value:
    """y = x W^T + b: reads the last dimension, writes one channel a row of W."""
    read, weight, bias = node.args[0], node.args[1], argument(node, "bias")
    assert isinstance(read, fx.Node)
    value = value_of(analysis, read)
    if len(value_of(analysis, weight)) == 1:  # a single row: a number for each position
        analysis.freeze((value[-1], *value_of(analysis, weight)), f"is multiplied by a vector in {source(node)}")
        return value[:-1]
    produced = _linear_map(analysis, node, read, len(value) - 1, weight, bias)
    return (*value[:-1], produced)


@flow("addmm")
def times_stored(analysis: Analysis, node: fx.Node) -> Value:
    """y = x W (+ b), W stored: reads the last dimension, writes one channel a column of W."""
    bias, read, weight = node.args[:3] if operator(node) == "addmm" else (None, *node.args[:2])
    assert isinstance(read, fx.Node)
    value = value_of(analysis, read)
    matrix = stored_matrix(analysis, weight)
    if matrix is None or any(argument(node, scale, 1) != 1 for scale in ("alpha", "beta")):
        computed = (value[-1], *value_of(analysis, weight), *value_of(analysis, bias))
        analysis.freeze(computed, f"the weight is computed, not stored, in {source(node)}")
        return (*value[:-1], None)
    stored, written = matrix
    return (*value[:-1], _linear_map(analysis, node, read, len(value) - 1, stored, bias, written=written))


def stored_matrix(analysis: Analysis, node: object) -> tuple[fx.Node, int] | None:
    """The parameter behind the right factor of a product, itself or transposed, and its dimension of outputs."""
    if not isinstance(node, fx.Node) or len(shape(node)) != 2:
        return None
    if stored_name(analysis, node) is not None:
        return node, 1
    if operator(node) in ("t", "transpose", "permute", "numpy_T", "mT") and stored_name(analysis, node.args[0]):
        return node.args[0], 0  # type: ignore[return-value]
    return None


@flow(*CONVOLUTIONS)
def convolution(analysis: Analysis, node: fx.Node) -> Value:
    """Reads dimension 1; in g groups the i-th input of every group is one channel, and so is the o-th output."""
    read, weight, bias = node.args[0], node.args[1], argument(node, "bias")
    assert isinstance(read, fx.Node)
    groups = int(argument(node, "groups", 1))
    transposed = operator(node) in TRANSPOSED
    value = value_of(analysis, read)
    dim = len(value) - len(value_of(analysis, weight)) + 1  # 1, or 0 for an input without a batch
    if groups == shape(read)[dim] and groups > 1 and (not transposed or shape(weight)[1] == 1):  # type: ignore[arg-type]
        produced = _depthwise(analysis, node, value[dim], weight, bias)
    else:
        written = 1 if transposed else 0
        padded = transposed or _padded(node)  # its borders see fewer taps
        produced = _linear_map(analysis, node, read, dim, weight, bias, groups, padded, written)
    spatial: Value = (None,) * (len(value) - dim - 1)
    analysis.freeze(value[dim + 1 :], f"a convolution slides along it in {source(node)}")
    return (*value[:dim], produced, *spatial)


def _linear_map(
    analysis: Analysis,
    node: fx.Node,
    read: fx.Node,
    read_dim: int,
    weight: object,
    bias: object,
    groups: int = 1,
    padded: bool = False,
    written: int = 0,
) -> Axis | None:
    """Tie the input's channels to the weight's columns; the rows, dimension `written`, are the channels it writes.

    With groups dimension 0 holds the channels of all groups, dimension 1 those of one.
    """
    axis = value_of(analysis, read)[read_dim]
    first, second, *taps = value_of(analysis, weight)
    name = stored_name(analysis, weight)
    if first is None or second is None or name is None:
        computed = (axis, first, second, *taps, *value_of(analysis, bias))
        analysis.freeze(computed, f"the weight is computed, not stored, in {source(node)}")
        return None
    analysis.freeze(taps, "a position of the kernel, not a channel")
    blocks = first.positions.reshape(groups, -1)
    for block in blocks[1:]:
        analysis.tie(blocks[0], block)
    rows, columns = first, second
    if written:
        rows, columns = second.take(np.tile(np.arange(len(second.positions)), groups)), first
    if axis is None:
        analysis.freeze([columns], f"reads what no removable channel feeds in {source(node)}")
    else:
        for block in axis.positions.reshape(groups, -1):
            analysis.tie(block, columns.positions[: len(block)])
        place = stored_name(analysis, bias) if bias is None or shape(bias) == (len(rows.positions),) else None  # type: ignore[arg-type]
        consumer = Consumer(node, name, 1 - written, place, read, read_dim, axis, groups, padded)
        analysis.consumers.append(consumer)
    return _output_axis(analysis, node, rows, name, bias, written)


def _depthwise(analysis: Analysis, node: fx.Node, axis: Axis | None, weight: object, bias: object) -> Axis | None:
    """One filter (or m) for each channel: the channel passes, and can be silenced here as well."""
    rows, columns, *taps = value_of(analysis, weight)
    name = stored_name(analysis, weight)
    if rows is None or axis is None or name is None:
        analysis.freeze(
            [axis, rows, columns, *value_of(analysis, bias)],
            f"channels are filtered one by one but unknown in {source(node)}",
        )
        return None
    analysis.freeze([columns, *taps], "a position of the kernel, not a channel")
    multiplier = len(rows.positions) // len(axis.positions)
    for offset in range(multiplier):
        analysis.tie(rows.positions[offset::multiplier], axis.positions)
    return _output_axis(analysis, node, rows, name, bias)


def _output_axis(analysis: Analysis, node: fx.Node, rows: Axis, weight: str, bias: object, dim: int = 0) -> Axis | None:
    """What a map writes: zero where the slice of the weight is, and what the bias adds."""
    analysis.produced.append(rows.positions)
    filters, index = ZeroSource(((weight, dim),)), rows.sources[0][1]
    if bias is None:
        return Axis(rows.positions, ((filters, index),))
    offsets = value_of(analysis, bias)
    if not offsets or offsets[0] is None or len(offsets[0].positions) != len(rows.positions):
        analysis.freeze([rows], f"the bias is not one number a filter in {source(node)}")
        return Axis(rows.positions, ((filters, index),))
    analysis.tie(rows.positions, offsets[0].positions)
    name = stored_name(analysis, bias)
    if name is None or not np.array_equal(index, offsets[0].sources[0][1]):  # computed: each part by itself
        return join_axes((Axis(rows.positions, ((filters, index),)), offsets[0]))
    return Axis(rows.positions, ((ZeroSource(((weight, dim), (name, 0))), index),))


def stored_name(analysis: Analysis, node: object) -> str | None:
    """The parameter that a node holds as it is, None for a computed value."""
    return analysis.names.get(node.name) if isinstance(node, fx.Node) else None


@constants("linear", "addmm", *CONVOLUTIONS)
def output(known: Known, node: fx.Node) -> Tensor:
    """A row that reads known constants only, through weights that are not zero, writes a known constant.

    With padding only zeros pass: any other constant is not constant at the borders, whatever the resolution. So
    it is in a transposed convolution, whose borders see fewer taps.
    """
    if operator(node) == "addmm":
        return mapped(known, node, node.args[1], node.args[2], node.args[0], written=1)
    groups = int(argument(node, "groups", 1))
    transposed = operator(node) in TRANSPOSED
    only_zeros = transposed or (operator(node) in CONVOLUTIONS and _padded(node))
    read, weight, bias = node.args[0], node.args[1], argument(node, "bias")
    return mapped(known, node, read, weight, bias, groups, only_zeros, int(transposed))


def mapped(
    known: Known, node: fx.Node, read: Any, weight: Any, bias: Any, groups: int = 1, only_zeros: bool = False,
    written: int = 0,
) -> Tensor:  # fmt: skip
    """What is known of a linear map's result; the weight's dimension `written` is that of its outputs."""
    matrix = known[weight].expand(shape(weight))
    if matrix.dim() == 1:
        return torch.full((1,) * len(shape(node)), torch.nan, dtype=torch.float64)
    dim = known[read].dim() - matrix.dim() + 1 if operator(node) in CONVOLUTIONS else known[read].dim() - 1
    # (groups, rows, columns, taps)
    blocks = matrix.reshape(groups, -1, matrix.shape[1], matrix[0, 0].numel())
    blocks = blocks.transpose(1, 2) if written else blocks
    inputs = per_channel(known[read], dim, groups * blocks.shape[2]).reshape(groups, -1)
    usable = (inputs == 0) if only_zeros else ~inputs.isnan()
    if groups > 1:
        reached = torch.einsum("grc,gc->gr", blocks.any(-1).double(), (~usable).double()) > 0
        sums = torch.einsum("grc,gc->gr", blocks.double().sum(-1), torch.where(usable, inputs, 0.0).double())
        result = torch.where(reached, torch.nan, sums).reshape(-1)
    else:
        block, here = blocks[0], usable[0]
        unknown, moved = (~here).nonzero().flatten(), here & (inputs[0] != 0)
        few = ~block[:, unknown[:1]].flatten(1).any(1)  # rows that the first unknown input does not reach
        rows = block[few]
        known_sums = rows[:, moved].double().sum(-1) @ inputs[0, moved].double()
        known_sums += 0 * rows.flatten(1).sum(1)  # zero times a weight that is no number is none
        reached = (rows.any(-1) & ~here).any(1)
        result = torch.full((len(block),), torch.nan, dtype=torch.float64)
        result[few] = torch.where(reached, torch.nan, known_sums)
    if bias is not None:
        result = result + known[bias]
    return result.reshape([-1 if d == dim else 1 for d in range(known[read].dim())])


def _padded(node: fx.Node) -> bool:
    padding = argument(node, "padding", 0)
    return padding == "same" or (padding != "valid" and any(padding if isinstance(padding, list) else [padding]))


def per_channel(value: Tensor, dim: int, size: int) -> Tensor:
    """One known constant a channel, NaN where it is infinite or differs along the other dimensions: (size,)."""
    if value.shape[dim] == 1 and size > 1:
        value = value.expand(*value.shape[:dim], size, *value.shape[dim + 1 :])
    rows = value.movedim(dim, 0).flatten(1)
    low, high = rows.amin(1), rows.amax(1)  # NaN wins in both
    return torch.where((low == high) & low.isfinite(), low, torch.nan)
