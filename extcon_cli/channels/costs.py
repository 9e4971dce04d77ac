"""What a module costs as its channel groups lose channels: parameters, bytes, multiply-accumulates.

Each cost is a sum of products of widths, read off the traced graph: a convolution between two groups costs
coefficient * (channels read) * (channels written). Pure functions of counts; nothing is removed, nothing is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from extcon_cli.channels.analysis.axes import Axis, Index, Mask
from extcon_cli.channels.analysis.groups import ChannelGroup, Channels
from extcon_cli.channels.analysis.operator import Operator, holds_tensor, shape
from extcon_cli.channels.analysis.rules.linear import CONVOLUTIONS, TRANSPOSED, LinearMap
from extcon_cli.channels.analysis.rules.matmul import MATRIX_PRODUCTS, Einsum
from extcon_cli.channels.modules import named_tensors

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""Operators that read a whole sequence, with all their weights in one list."""
Counts = NDArray[np.float64]
Places = tuple[tuple[int, Index | None], ...]
"""Dimensions that are multiplied: how long each is, and the positions along it (None: it carries no channels)."""


@dataclass(frozen=True, eq=False)
class Cost:
    """constant + sum_t coefficients[t] * prod_j width(factors[t, j]).

    width(d) = sizes[d] - sum_g removed[g] * held[g, d], where group g has lost removed[g] of its channels.
    """

    groups: tuple[ChannelGroup, ...]
    sizes: Counts  # (dims,) the last one is 1, to fill rows of `factors`
    held: Counts  # (groups, dims) indices along a dimension that one channel of a group holds
    coefficients: Counts  # (terms,)
    factors: Index  # (terms, j) dimensions
    constant: float = 0.0

    @classmethod
    def counting(cls, groups: Sequence[ChannelGroup]) -> Cost:
        """The number of channels itself."""
        sizes = np.array([*(group.size for group in groups), 1], dtype=float)
        held = np.eye(len(groups), len(groups) + 1)
        return cls(tuple(groups), sizes, held, np.ones(len(groups)), np.arange(len(groups))[:, None])

    def total(self, removed: Counts) -> float:
        """The cost where each group has lost so many channels: (groups,)."""
        return self.constant + float(self._products(self.sizes - removed @ self.held, slice(None)).sum())

    def saving(self, removed: Counts, group: int, count: float) -> float:
        """What `count` channels more of one group save, at the widths that the others have by now."""
        widths = self.sizes - removed @ self.held
        terms = self.touched[group]
        fewer = self._products(widths - count * self.held[group], terms)
        return float((self._products(widths, terms) - fewer).sum())

    @cached_property
    def touched(self) -> list[Index]:
        """The terms that each group's channels are factors of."""
        holds: Mask = self.held > 0
        return [np.flatnonzero(row[self.factors].any(1)) for row in holds]

    def anchored(self, measured: float) -> Cost:
        """The same with a constant by which the whole module costs what was measured."""
        return replace(self, constant=self.constant + measured - self.total(np.zeros(len(self.groups))))

    def _products(self, widths: Counts, terms: Index | slice) -> Counts:
        found: Counts = self.coefficients[terms] * widths[self.factors[terms]].prod(1)
        return found


def params_cost(module: nn.Module, channels: Channels) -> Cost:
    """The number of parameters, tied ones once."""
    return _assemble(channels, ((1.0, _stored(channels, name, p)) for name, p in module.named_parameters()))


def bytes_cost(module: nn.Module, channels: Channels, stored: Mapping[str, torch.dtype] = MappingProxyType({})) -> Cost:
    """Bytes of all parameters and buffers in the state dict; `stored` names those of another type than they have."""
    names = _first_names(module)
    return _assemble(
        channels,
        (
            (float(stored.get(name, tensor.dtype).itemsize), _stored(channels, names.get(name, name), tensor))
            for name, tensor in module.state_dict().items()
            if isinstance(tensor, torch.Tensor)
        ),
    )


def macs_cost(channels: Channels, *, recurrent: bool = False) -> Cost:
    """Multiply-accumulates of one sample in the linear maps and products that torch's FLOP counter knows.

    Of the first example that was traced, whose first dimension is the batch. `recurrent`: those of RNNs too, which the
    counter sees only where they are no fused operator.
    """
    batch, nodes = traced_batch(channels), channels.graphs[0].nodes
    terms = (term for node in nodes if node.op == "call_function" for term in products_of(node, recurrent))
    return cost_of(channels, ((coefficient / batch, dims) for coefficient, dims in terms))


Dim = tuple[fx.Node, int]
"""A dimension of a value of the graph."""


def cost_of(channels: Channels, terms: Iterable[tuple[float, Sequence[Dim]]]) -> Cost:
    """The sum of coefficients times the lengths of dimensions of the graph's values."""
    return _assemble(
        channels,
        ((coefficient, tuple(_place(channels, *dim) for dim in dims)) for coefficient, dims in terms),
    )


def traced_batch(channels: Channels) -> int:
    """Samples of the first example that was traced: the first dimension of its first input."""
    graph = channels.graphs[0]
    return next((shape(node)[0] for node in graph.nodes if node.name in graph.inputs and holds_tensor(node)), 1)


def shrinking(channels: Channels) -> Callable[[Dim], bool]:
    """Tells of a dimension whether it loses indices where some group loses channels."""
    ids = [channels.ids_of(group) for group in channels.groups if group.prunable]
    may_go: Mask = np.isin(channels.channel_ids, np.concatenate(ids)) if ids else np.zeros(0, bool)

    def shrinks(dim: Dim) -> bool:
        positions = _place(channels, *dim)[1]
        return positions is not None and bool(may_go.any()) and bool(may_go[positions].any())

    return shrinks


def products_of(node: fx.Node, recurrent: bool) -> Iterator[tuple[float, list[Dim]]]:
    """What one operator multiplies: a coefficient, and the dimensions whose lengths it is multiplied by."""
    op = Operator(node)
    if op.name in CONVOLUTIONS:
        weight, read = LinearMap.of(op).weight, op.input(0) if op.name in TRANSPOSED else node
        spatial = len(shape(weight)) - 2
        others = shape(read)[: len(shape(read)) - spatial - 1]  # the batch, where there is one
        yield math.prod(others) * math.prod(shape(read)[-spatial:]), _dims(weight)
    elif op.name == "linear":
        yield 1.0, [*_dims(op.input(0))[:-1], *_dims(op.input(1))]
    elif op.name == "addmm":
        yield 1.0, [*_dims(op.input("mat1")), (op.input("mat2"), 1)]
    elif op.name == "baddbmm":
        yield 1.0, [*_dims(op.input("batch1")), (op.input("batch2"), 2)]
    elif op.name == "scaled_dot_product_attention":
        query, key, value = op.input("query"), op.input("key"), op.input("value")
        yield 1.0, [*_dims(query), _back(key, 2)]
        yield 1.0, [*_dims(query)[:-1], _back(value, 2), _back(value, 1)]
    elif op.name in RECURRENT and recurrent:
        read, hidden = op.input(0), op.inputs(2)
        for weight in hidden:
            if len(shape(weight)) == 2:  # the others are biases
                yield float(math.prod(shape(read)[:-1])), _dims(weight)
    elif op.name in (*MATRIX_PRODUCTS, "einsum") and (product := Einsum.of(op)) is not None:
        letters = dict.fromkeys("".join(product.terms))
        places = [max(product.places(letter), key=lambda dim: shape(dim[0])[dim[1]]) for letter in letters]
        yield 1.0, places


def _dims(node: fx.Node) -> list[Dim]:
    return [(node, dim) for dim in range(len(shape(node)))]


def _back(node: fx.Node, count: int) -> Dim:
    return node, len(shape(node)) - count


def _place(channels: Channels, node: fx.Node, dim: int) -> tuple[int, Index | None]:
    """How long a dimension is, and the positions along it."""
    value: Any = channels.analysis.values.get(node)
    axis = value[dim] if value is not None and dim < len(value) else None
    return shape(node)[dim], axis.positions if isinstance(axis, Axis) else None


def _stored(channels: Channels, name: str, tensor: torch.Tensor) -> Places:
    """The dimensions of a parameter or buffer."""
    return tuple((size, channels.analysis.dims.get((name, dim))) for dim, size in enumerate(tensor.shape))


def _first_names(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor, which the analysis knows it by."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(module).items()}


def _assemble(channels: Channels, terms: Iterable[tuple[float, Places]]) -> Cost:
    """Number the dimensions that groups can shorten, and add up the terms that have the same ones."""
    groups = tuple(group for group in channels.groups if group.prunable)
    owner = np.full(len(channels.channel_ids), len(groups), dtype=np.int64)
    for number, group in enumerate(groups):
        owner[channels.ids_of(group)] = number
    share = np.array([1 / group.size for group in groups])
    numbers: dict[tuple[int, bytes], int] = {}
    found: dict[bytes, tuple[int, bytes]] = {}
    total: dict[tuple[int, ...], float] = {}
    held: list[Counts] = []
    sizes: list[float] = []

    def number_of(size: int, positions: Index) -> int | None:
        raw = positions.tobytes()
        if raw not in found:
            counts = np.bincount(owner[channels.channel_ids[positions]], minlength=len(groups) + 1)[:-1] * share
            found[raw] = (size, counts.tobytes())
            if counts.any() and found[raw] not in numbers:
                numbers[found[raw]] = len(sizes)
                sizes.append(size)
                held.append(counts)
        return numbers.get(found[raw])

    for coefficient, places in terms:
        dims = []
        for size, positions in places:
            dim = number_of(size, positions) if positions is not None else None
            if dim is None:
                coefficient *= size
            else:
                dims.append(dim)
        key = tuple(sorted(dims))
        total[key] = total.get(key, 0.0) + coefficient
    constant = total.pop((), 0.0)
    longest = max(map(len, total), default=1)
    factors = np.array([[*key, *[len(sizes)] * (longest - len(key))] for key in total], dtype=np.int64)
    return Cost(
        groups,
        np.array([*sizes, 1.0]),
        np.array([*held, np.zeros(len(groups))]).T,
        np.array(list(total.values())),
        factors.reshape(-1, longest),
        constant,
    )
