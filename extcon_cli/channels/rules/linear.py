"""Linear maps: they read the channels of their input and write new ones. Here channels begin and end."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from extcon_cli.channels.axes import Analysis, Axis, Consumer, Site, Value
from extcon_cli.channels.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.trace import argument, operator, shape, source

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")


@flow("linear")
def linear(analysis: Analysis, node: fx.Node) -> Value:
    """y = x W^T + b: reads the last dimension, writes one channel a row of W."""
    read, weight, bias = node.args[0], node.args[1], argument(node, "bias")
    assert isinstance(read, fx.Node)
    value = value_of(analysis, read)
    if len(value_of(analysis, weight)) == 1:  # a single row: a number for each position
        analysis.freeze((value[-1], *value_of(analysis, weight)), f"is multiplied by a vector in {source(node)}")
        return value[:-1]
    produced = _map(analysis, node, read, len(value) - 1, weight, bias)
    return (*value[:-1], produced)


@flow(*CONVOLUTIONS)
def convolution(analysis: Analysis, node: fx.Node) -> Value:
    """Reads dimension 1; in g groups the i-th input of every group is one channel, and so is the o-th output."""
    read, weight, bias = node.args[0], node.args[1], argument(node, "bias")
    assert isinstance(read, fx.Node)
    groups = int(argument(node, "groups", 1))
    value = value_of(analysis, read)
    dim = len(value) - len(value_of(analysis, weight)) + 1  # 1, or 0 for an input without a batch
    if groups == shape(read)[dim] and groups > 1:
        produced = _depthwise(analysis, node, value[dim], weight, bias)
    else:
        produced = _map(analysis, node, read, dim, weight, bias, groups, _padded(node))
    spatial: Value = (None,) * (len(value) - dim - 1)
    analysis.freeze(value[dim + 1 :], f"a convolution slides along it in {source(node)}")
    return (*value[:dim], produced, *spatial)


def _map(
    analysis: Analysis,
    node: fx.Node,
    read: fx.Node,
    read_dim: int,
    weight: object,
    bias: object,
    groups: int = 1,
    padded: bool = False,
) -> Axis | None:
    """Tie the input's channels to the weight's columns; the rows are the channels that the map writes."""
    axis = value_of(analysis, read)[read_dim]
    rows, columns, *taps = value_of(analysis, weight)
    name = stored_name(analysis, weight)
    if rows is None or columns is None or name is None:
        computed = (axis, rows, columns, *taps, *value_of(analysis, bias))
        analysis.freeze(computed, f"the weight is computed, not stored, in {source(node)}")
        return None
    analysis.freeze(taps, "a position of the kernel, not a channel")
    if groups > 1:
        blocks = rows.atoms.reshape(groups, -1)
        for block in blocks[1:]:
            analysis.tie(blocks[0], block)
    if axis is None:
        analysis.freeze([columns], f"reads what no removable channel feeds in {source(node)}")
    else:
        for block in axis.atoms.reshape(groups, -1):
            analysis.tie(block, columns.atoms)
        place = stored_name(analysis, bias) if bias is None or shape(bias) == shape(weight)[:1] else None  # type: ignore[arg-type]
        analysis.consumers.append(Consumer(node, name, 1, place, read, read_dim, axis, groups, padded))
    return _written(analysis, node, rows, name, bias)


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
    multiplier = len(rows.atoms) // len(axis.atoms)
    for offset in range(multiplier):
        analysis.tie(rows.atoms[offset::multiplier], axis.atoms)
    return _written(analysis, node, rows, name, bias)


def _written(analysis: Analysis, node: fx.Node, rows: Axis, weight: str, bias: object) -> Axis | None:
    parts = [(weight, 0)]
    offsets = value_of(analysis, bias)
    if offsets and offsets[0] is not None and len(offsets[0].atoms) == len(rows.atoms):
        analysis.tie(rows.atoms, offsets[0].atoms)
        name = stored_name(analysis, bias)
        if name is None:
            analysis.freeze([rows], f"the bias is computed, not stored, in {source(node)}")
            return rows
        parts.append((name, 0))
    elif bias is not None:
        analysis.freeze([rows], f"the bias is computed, or not one a row, in {source(node)}")
    analysis.produced.append(rows.atoms)
    return Axis(rows.atoms, ((Site(tuple(parts)), rows.sites[0][1]),))


def stored_name(analysis: Analysis, node: object) -> str | None:
    """The parameter that a node holds as it is, None for a computed value."""
    return analysis.names.get(node.name) if isinstance(node, fx.Node) else None


@constants("linear", *CONVOLUTIONS)
def output(known: Known, node: fx.Node) -> Tensor:
    """A row that reads known constants only, through weights that are not zero, writes a known constant.

    With padding only zeros pass: any other constant is not constant at the borders, whatever the resolution.
    """
    weight, bias = known[node.args[1]].expand(shape(node.args[1])), argument(node, "bias")  # type: ignore[index,arg-type]
    if weight.dim() == 1:
        return torch.full((1,) * len(shape(node)), torch.nan, dtype=torch.float64)
    convolves = operator(node) != "linear"
    groups = int(argument(node, "groups", 1)) if convolves else 1
    read = known[node.args[0]]  # type: ignore[index]
    dim = read.dim() - weight.dim() + 1 if convolves else read.dim() - 1
    inputs = per_channel(read, dim, weight.shape[1] * groups).reshape(groups, -1)
    usable = (inputs == 0) if convolves and _padded(node) else ~inputs.isnan()
    blocks = weight.reshape(groups, -1, weight.shape[1], weight[0, 0].numel())  # (groups, rows, columns, taps)
    result = torch.full((weight.shape[0],), torch.nan, dtype=torch.float64)
    for block, constants_read, known_here, rows in zip(blocks, inputs, usable, result.reshape(groups, -1), strict=True):
        settled = ~block[:, ~known_here].flatten(1).any(1)  # rows that no unknown input reaches
        gains = block[settled][:, known_here].double().sum(-1)
        rows[settled] = gains @ constants_read[known_here]
    if bias is not None:
        result = result + known[bias]
    return result.reshape([-1 if d == dim else 1 for d in range(read.dim())])


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
