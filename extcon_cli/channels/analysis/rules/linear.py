"""Linear maps: they read the channels of their input and write new ones. Here channels begin and end.

A weight that is computed of others (cut from one, transposed, masked, normalised) carries their channels. Only zeros
can go from what it reads: there is no weight that a constant could move through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Axis, Consumer, Value, ZeroSource, join_axes
from extcon_cli.channels.analysis.known import along, per_channel
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, shape
from extcon_cli.channels.analysis.rules.pointwise import tie_all
from extcon_cli.channels.analysis.rules.registry import constants, flow

TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", *TRANSPOSED)
AT_ONCE = 1 << 20
"""Numbers of a weight that are copied at a time: they stay in the cache."""


@dataclass(frozen=True)
class LinearMap:
    """What an operator reads, and how its weight lies.

    With groups dimension 0 of the weight holds the channels of all groups, dimension 1 those of one.
    """

    input: fx.Node
    input_dim: int
    weight: fx.Node
    bias: fx.Node | None
    output_dim: int = 0  # the weight's dimension of outputs; that of inputs is the other one of 0 and 1
    groups: int = 1
    padded: bool = False  # its borders see zeros, or fewer taps

    @classmethod
    def of(cls, op: Operator) -> LinearMap:
        """A convolution, `linear`, `addmm`, or a product with a matrix."""
        if op.name in CONVOLUTIONS:
            read, weight, transposed = op.input(0), op.input(1), op.name in TRANSPOSED
            dim = len(shape(read)) - len(shape(weight)) + 1  # 1, or 0 for an input without a batch
            groups, padded = op.integer("groups"), transposed or _padded(op)
            return cls(read, dim, weight, op.optional_input("bias"), int(transposed), groups, padded)
        if op.name == "deform_conv2d":
            zeros = Operator(op.input("bias")).name == "zeros"  # what torchvision passes for none
            bias = None if zeros else op.input("bias")
            return cls(op.input(0), 1, op.input("weight"), bias, 0, op.integer("groups"), padded=True)
        if op.name == "addmm":
            return cls(op.input("mat1"), 1, op.input("mat2"), op.input("self"), output_dim=1)
        read = op.input(0)
        if op.name == "linear":
            return cls(read, len(shape(read)) - 1, op.input(1), op.optional_input("bias"))
        return cls(read, len(shape(read)) - 1, op.input(1), None, output_dim=1)

    @property
    def depthwise(self) -> bool:
        """Whether each channel is filtered by itself."""
        alone = self.groups > 1 and self.groups == shape(self.input)[self.input_dim]
        return alone and (self.output_dim == 0 or shape(self.weight)[1] == 1)


def _padded(op: Operator) -> bool:
    """Whether a convolution reads zeros beyond the borders."""
    padding = op.value("padding")
    return padding == "same" if isinstance(padding, str) else any(op.integers("padding"))


@flow("linear")
def linear(op: FlowOperator) -> Value:
    """y = x W^T + b: reads the last dimension, writes one channel a row of W."""
    *outer, read = op.axes(0)
    if len(op.axes("weight")) == 1:  # a single row: a number for each position
        if tie_all(op, [read, *op.axes("weight")]):
            op.read_zeros(op.input(0), len(outer))
        return tuple(outer)
    return (*outer, _read_and_write(op, LinearMap.of(op)))


@flow("addmm")
def times_stored(op: FlowOperator) -> Value:
    """y = x W (+ b), W stored: reads the last dimension, writes one channel a column of W."""
    linear_map = LinearMap.of(op)
    *outer, read = op.axes_of(linear_map.input)
    if any(op.value(scale, 1) != 1 for scale in ("alpha", "beta")):
        op.freeze((read, *op.axes_of(linear_map.weight), *op.axes_of(linear_map.bias)), f"{op.name} is scaled")
        return (*outer, None)
    stored = stored_matrix(op.analysis, linear_map.weight)
    if stored is not None:
        weight, output_dim = stored
        linear_map = replace(linear_map, weight=weight, output_dim=output_dim)
    return (*outer, _read_and_write(op, linear_map))


def stored_matrix(analysis: Analysis, factor: fx.Node) -> tuple[fx.Node, int] | None:
    """The parameter behind the right factor of a product, itself or transposed, and its dimension of outputs."""
    if len(shape(factor)) != 2:
        return None
    if analysis.parameter_name(factor) is not None:
        return factor, 1
    op = Operator(factor)
    if op.name in ("t", "transpose", "permute", "numpy_T", "mT") and analysis.parameter_name(op.input(0)):
        return op.input(0), 0
    return None


@flow(*CONVOLUTIONS)
def convolution(op: FlowOperator) -> Value:
    """Reads dimension 1; in g groups the i-th input of every group is one channel, and so is the o-th output."""
    linear_map = LinearMap.of(op)
    value, dim = op.axes_of(linear_map.input), linear_map.input_dim
    produced = convolved(op, linear_map)
    space: Value = (None,) * (len(value) - dim - 1)
    op.refuse(value[dim + 1 :], "a convolution slides along it")
    return (*value[:dim], produced, *space)


def convolved(op: FlowOperator, linear_map: LinearMap) -> Axis | None:
    """The channels that a convolution writes."""
    return _filter_each(op, linear_map) if linear_map.depthwise else _read_and_write(op, linear_map)


def _read_and_write(op: FlowOperator, linear_map: LinearMap) -> Axis | None:
    """Tie the input's channels to the weight's columns; the rows are the channels that it writes."""
    axis = op.axes_of(linear_map.input)[linear_map.input_dim]
    first, second, *taps = op.axes_of(linear_map.weight)
    if first is None or second is None:
        computed = (axis, first, second, *taps, *op.axes_of(linear_map.bias))
        op.freeze(computed, "the weight is computed, not stored,")
        return None
    op.refuse(taps, "a position of the kernel, not a channel,")
    groups = linear_map.groups
    blocks = first.positions.reshape(groups, -1)
    for block in blocks[1:]:
        op.analysis.tie(blocks[0], block)
    rows, columns = first, second
    if linear_map.output_dim == 1:
        rows, columns = second.take(np.tile(np.arange(len(second.positions)), groups)), first
    if axis is None:
        op.freeze([columns], "reads what no removable channel feeds")
    else:
        for block in axis.positions.reshape(groups, -1):
            op.analysis.tie(block, columns.positions[: len(block)])
        op.analysis.consumers.append(_consumer(op, linear_map, axis, len(rows.positions)))
    return _written(op, linear_map, rows)


def _consumer(op: FlowOperator, linear_map: LinearMap, axis: Axis, outputs: int) -> Consumer:
    """The map as one that reads channels; its bias only where that is one number an output."""
    bias, weight = linear_map.bias, op.analysis.parameter_name(linear_map.weight)
    whole = bias is not None and shape(bias) == (outputs,)
    return Consumer(
        node=op.node,
        weight=weight or "",
        dim=1 - linear_map.output_dim,
        bias=op.analysis.parameter_name(bias) if whole else None,
        input=linear_map.input,
        input_dim=linear_map.input_dim,
        axis=axis,
        groups=linear_map.groups,
        padded=linear_map.padded,
        zeros_only=weight is None,
    )


def _filter_each(op: FlowOperator, linear_map: LinearMap) -> Axis | None:
    """One filter (or m) for each channel: the channel passes, and can be made zero here as well."""
    axis = op.axes_of(linear_map.input)[linear_map.input_dim]
    rows, columns, *taps = op.axes_of(linear_map.weight)
    name = op.analysis.parameter_name(linear_map.weight)
    if rows is None or axis is None or name is None:
        unknown = (axis, rows, columns, *op.axes_of(linear_map.bias))
        op.freeze(unknown, "channels are filtered one by one but unknown")
        return None
    op.analysis.freeze([columns, *taps], "a position of the kernel, not a channel")
    multiplier = len(rows.positions) // len(axis.positions)
    for offset in range(multiplier):
        op.analysis.tie(rows.positions[offset::multiplier], axis.positions)
    return _written(op, replace(linear_map, output_dim=0), rows)


def _written(op: FlowOperator, linear_map: LinearMap, rows: Axis) -> Axis | None:
    """What a map writes: zero where the slice of the weight is, and what the bias adds."""
    op.analysis.produced.append(rows.positions)
    filters = replace(rows, laid_out_by=None)
    if linear_map.bias is None:
        return filters
    offsets = op.axes_of(linear_map.bias)
    if not offsets or offsets[0] is None or len(offsets[0].positions) != len(rows.positions):
        op.freeze([rows], "the bias is not one number a filter")
        return filters
    op.tie(rows, offsets[0])
    both = [axis.sources[0] for axis in (filters, offsets[0]) if len(axis.sources) == 1 and axis.zero]
    if len(both) < 2 or not np.array_equal(both[0][1], both[1][1]):  # each part by itself
        return join_axes((filters, offsets[0]))
    (weights, index), (biases, _) = both
    parts, is_buffer = weights.parts + biases.parts, weights.is_buffer or biases.is_buffer
    return Axis(rows.positions, ((ZeroSource(parts, is_buffer), index),))


@constants("linear", "addmm", "deform_conv2d", *CONVOLUTIONS)
def linear_output(op: KnownOperator) -> Tensor:
    """A row that reads known constants only, through weights that are not zero, writes a known constant.

    With padding only zeros pass: any other constant is not constant at the borders, whatever the resolution. So
    it is in a transposed convolution, whose borders see fewer taps.
    """
    linear_map = LinearMap.of(op)
    matrix = op.full_of(linear_map.weight)
    if matrix.dim() == 1:
        return op.unknown()
    # (groups, rows, columns, taps)
    blocks = matrix.reshape(linear_map.groups, -1, matrix.shape[1], matrix[0, 0].numel())
    blocks = blocks.transpose(1, 2) if linear_map.output_dim == 1 else blocks
    read = op.constant_of(linear_map.input)
    inputs = per_channel(read, linear_map.input_dim, linear_map.groups * blocks.shape[2])
    inputs = inputs.reshape(linear_map.groups, -1)
    usable = (inputs == 0) if linear_map.padded else ~inputs.isnan()
    if linear_map.groups > 1:
        result = _known_rows_in_groups(blocks, inputs, usable)
    else:
        result = _known_rows(blocks[0], inputs[0], usable[0])
    if linear_map.bias is not None:
        result = result + op.constant_of(linear_map.bias)
    return along(result, linear_map.input_dim, read.dim())


def _known_rows_in_groups(
    blocks: Tensor,  # (groups, rows, columns, taps)
    inputs: Tensor,  # (groups, columns)
    usable: Tensor,  # (groups, columns)
) -> Tensor:
    """Each row's sum, NaN where an input that is not usable reaches it: (groups * rows,)."""
    reached = torch.einsum("grc,gc->gr", blocks.any(-1).double(), (~usable).double()) > 0
    sums = torch.einsum("grc,gc->gr", blocks.double().sum(-1), torch.where(usable, inputs, 0.0).double())
    return torch.where(reached, torch.nan, sums).reshape(-1)


def _known_rows(
    block: Tensor,  # (rows, columns, taps)
    inputs: Tensor,  # (columns,)
    usable: Tensor,  # (columns,)
) -> Tensor:
    """The same for one group, where most rows are not worth the sum: (rows,)."""
    unusable, moved = (~usable).nonzero().flatten(), usable & (inputs != 0)
    few = (~block[:, unusable[:1]].flatten(1).any(1)).nonzero().flatten()  # which the first unusable one does not reach
    result = torch.full((len(block),), torch.nan, dtype=torch.float64)
    gains = inputs[moved].double()
    each = max(1, AT_ONCE * len(block) // max(1, block.numel()))
    for start in range(0, len(few), each):
        some = few[start : start + each]
        rows = block[some]
        sums = rows[:, moved].double().sum(-1) @ gains
        sums += 0 * rows.flatten(1).sum(1)  # zero times a weight that is no number is none
        reached = (rows.any(-1) & ~usable).any(1)
        result[some] = torch.where(reached, torch.nan, sums)
    return result
