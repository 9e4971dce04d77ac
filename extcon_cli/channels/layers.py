"""The linear maps of a traced model by what their time depends on, and what else it moves through memory.

Reads shapes off the graph; measures nothing, knows no runtime.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import fx

from extcon_cli.channels.analysis.axes import Axis
from extcon_cli.channels.analysis.groups import ChannelGroup, Channels
from extcon_cli.channels.analysis.operator import NotLiteral, Operator, holds_tensor, shape
from extcon_cli.channels.analysis.rules.linear import CONVOLUTIONS, TRANSPOSED, LinearMap
from extcon_cli.channels.costs import Dim, products_of, traced_batch

FREE = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "mT", "squeeze",
    "unsqueeze", "expand", "expand_as", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "getitem",
    "narrow", "alias", "detach", "dropout", "contiguous", "to", "_to_copy", "identity",
)  # fmt: skip
"""Operators that move nothing through memory, or hardly ever do."""

NORMS = ("layer_norm", "rms_norm")
"""Norms over channels."""


@dataclass(frozen=True)
class LayerShape:
    """What the time of a linear map depends on: the key of a table."""

    inputs: int
    """Channels that it reads."""
    outputs: int
    """Channels that it gives."""
    sizes: tuple[int, ...]
    """Of what it reads, without the channels: (rows,), of a convolution (batch, *space)."""
    kernel: tuple[int, ...] = ()
    """Empty: a matrix."""
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False

    @property
    def depthwise(self) -> bool:
        """Whether each channel is filtered by itself."""
        return self.groups > 1 and self.groups == self.inputs

    @property
    def macs(self) -> int:
        """Multiply-accumulates, borders aside."""
        scale = 1.0 if self.transposed else 1 / math.prod(self.stride)
        each = math.prod(self.kernel) * self.inputs * self.outputs // self.groups
        return max(1, int(math.prod(self.sizes) * scale * each))

    def at(self, inputs: int, outputs: int) -> LayerShape:
        """The same at other widths."""
        return replace(self, inputs=inputs, outputs=outputs, groups=inputs if self.depthwise else self.groups)


@dataclass(frozen=True, eq=False)
class PlacedLayer:
    """A linear map of the graph, and the dimensions that its widths follow."""

    shape: LayerShape
    inputs: Dim | None
    """None: it reads and gives the same channels."""
    outputs: Dim


@dataclass(frozen=True, eq=False)
class Product:
    """A product of computed values (attention) as a matrix of the same size, and all dimensions that it multiplies."""

    shape: LayerShape
    dims: tuple[Dim, ...]


def linear_layers(channels: Channels, batch: int) -> Iterator[PlacedLayer | Product]:
    """Every linear map and every product of the first traced example, at another batch size than it was traced with."""
    traced = traced_batch(channels)
    for node in channels.graphs[0].nodes:
        if node.op == "call_function":
            try:
                yield from _layers_of(node, batch, traced)
            except NotLiteral:  # what the model computes is no constant of a table
                continue


def averaged(channels: Channels) -> list[ChannelGroup]:
    """The groups whose channels a norm takes the mean of: once one goes, it is several operators (`preserving.py`)."""
    ids = [
        channels.ids_along(axis)
        for node in channels.graphs[0].nodes
        if node.op == "call_function" and Operator(node).name in NORMS
        for axis in _normalised(channels, Operator(node))
    ]
    held = np.unique(np.concatenate(ids)) if ids else np.zeros(0, np.int64)
    return [group for group in channels.groups if group.prunable and np.isin(channels.ids_of(group), held).any()]


def moved(channels: Channels, without: Collection[str] = ()) -> Iterator[tuple[float, list[Dim]]]:
    """What the other operators, but for these, write, as (coefficient, dimensions): numbers of the traced example."""
    for node in channels.graphs[0].nodes:
        if node.op != "call_function" or not holds_tensor(node) or Operator(node).name in (*FREE, *without):
            continue
        if not any(True for _ in products_of(node, recurrent=False)):
            yield 1.0, [(node, dim) for dim in range(len(shape(node)))]


def _normalised(channels: Channels, op: Operator) -> Iterator[Axis]:
    """The dimensions with channels that a norm takes the mean over: the last ones."""
    value: Any = channels.analysis.values.get(op.input(0))
    count = len(op.integers("normalized_shape"))
    yield from (axis for axis in (value or ())[-count:] if isinstance(axis, Axis))


def _layers_of(node: fx.Node, batch: int, traced: int) -> Iterator[PlacedLayer | Product]:
    op = Operator(node)
    if op.name in CONVOLUTIONS:
        yield _convolution(op, batch, traced)
    elif op.name in ("linear", "addmm") and len(shape(LinearMap.of(op).weight)) == 2:
        found = LinearMap.of(op)
        inputs, outputs = (found.weight, 1 - found.output_dim), (found.weight, found.output_dim)
        rows = _scaled(math.prod(shape(found.input)[:-1]), batch, traced)
        yield PlacedLayer(LayerShape(_size(inputs), _size(outputs), (rows,)), inputs, outputs)
    else:
        for coefficient, dims in products_of(node, recurrent=False):
            *outer, inner, last = [_size(dim) for dim in dims] if len(dims) > 1 else [1, *map(_size, dims)]
            rows = _scaled(int(coefficient) * math.prod(outer), batch, traced)
            yield Product(LayerShape(inner, last, (rows,)), tuple(dims))


def _convolution(op: Operator, batch: int, traced: int) -> PlacedLayer:
    found, weight = LinearMap.of(op), op.input(1)
    rank = len(shape(weight)) - 2
    space = shape(found.input)[-rank:]
    given = op.value("padding")
    kernel, dilation = shape(weight)[2:], _spread(op.integers("dilation"), rank, 1)
    if isinstance(given, str):
        padding = tuple(d * (k - 1) // 2 if given == "same" else 0 for d, k in zip(dilation, kernel, strict=True))
    else:
        padding = _spread(op.integers("padding"), rank, 0)
    inputs, outputs = (weight, 1 - found.output_dim), (weight, found.output_dim)
    own = LayerShape(
        inputs=shape(found.input)[found.input_dim],
        outputs=shape(op.node)[found.input_dim],
        sizes=(_scaled(math.prod(shape(found.input)[: found.input_dim]), batch, traced), *space),
        kernel=kernel,
        stride=_spread(op.integers("stride"), rank, 1),
        padding=padding,
        dilation=dilation,
        groups=found.groups,
        transposed=op.name in TRANSPOSED,
    )
    if own.depthwise:
        return PlacedLayer(own, None, (weight, 0))
    return PlacedLayer(own, inputs, outputs)


def _size(dim: Dim) -> int:
    return shape(dim[0])[dim[1]]


def _scaled(rows: int, batch: int, traced: int) -> int:
    """As many rows as another batch has; those that no batch is in stay."""
    return max(1, rows * batch // traced) if rows % traced == 0 else rows


def _spread(values: list[int], rank: int, default: int) -> tuple[int, ...]:
    """One number for each dimension of space."""
    if len(values) == rank:
        return tuple(values)
    return tuple(values or [default]) * rank if len(values) < 2 else (default,) * rank
