"""Which positions of which dimension are the same channel: positions, axes, and what is known of them.

A *position* is one index of one dimension of one parameter; positions are numbered through the whole model. Operators
tie positions together: what they tie is one channel. This file holds the bookkeeping; what each operator does stands
in `rules/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ZeroSource:
    """Parameters whose i-th slices, all zero, make channel i zero: (gamma, beta), or (row, bias)."""

    parts: tuple[tuple[str, int], ...]  # (parameter, dim)
    is_buffer: bool = False  # which no training sets to zero


@dataclass(frozen=True)
class Axis:
    """A dimension that carries channels: its i-th index is `positions[i]`.

    Each source comes with `rows`: the source's slice rows[i] feeds index i; -1: none does.
    """

    positions: Index  # (size,)
    sources: tuple[tuple[ZeroSource, Index], ...] = ()  # (source, rows)
    laid_out_by: fx.Node | None = None  # the view that laid longer channels out along this dimension, and had a choice
    zero: bool = True  # the sources at zero make it zero; False: a constant, such as sigmoid(0)
    free: bool = False  # one value repeated by `expand`: it has no channels of its own, and takes those that it meets

    def take(self, picked: Index) -> Axis:
        """The axis after an operator has picked, repeated or reordered its indices."""
        sources = tuple((source, rows[picked]) for source, rows in self.sources)
        return Axis(self.positions[picked], sources, self.laid_out_by, self.zero, self.free)

    def without_sources(self) -> Axis:
        """The same channels, which no parameters make zero here."""
        return Axis(self.positions, (), self.laid_out_by, free=self.free)


Value = tuple["Axis | None", ...]  # one entry a dimension; None: it carries no channels


@dataclass(frozen=True)
class Consumer:
    """An operator that reads channels and gives no channels of its own: a linear map, a norm, a sum.

    They lie along dimension `dim` of its weight. The weight is empty where it is computed, or there is none.
    """

    node: fx.Node
    weight: str
    dim: int
    bias: str | None
    input: fx.Node  # the value whose channels are read
    input_dim: int
    axis: Axis
    groups: int = 1
    padded: bool = False  # zeros are read at the borders, so a constant input is not constant there
    zeros_only: bool = False  # other constants have nowhere to go: a norm, a sum, a weight that is computed


@dataclass(frozen=True)
class SizedView:
    """A view or a split, whose sizes may stand in the model's code, and the channels along one of its dimensions."""

    node: fx.Node
    axis: Axis


@dataclass(frozen=True)
class InlineNorm:
    """A root mean square in a module's own code, times offset + weight; the module's attribute `eps` is added in it."""

    weight: str
    eps: str
    offset: float
    axis: Axis
    rank: int  # of the value that it reads


@dataclass
class Analysis:
    """What the walk over the graph has found so far.

    `view_layouts` says for a view along which of its dimensions channels run, counted from the last long one; the walk
    notes in `refused_views` those whose choice a contraction refuses, since it sums over that dimension.
    """

    names: dict[str, str] = field(default_factory=dict)  # placeholder -> the parameter that it holds
    modules: Mapping[str, nn.Module] = field(default_factory=dict)  # by path
    dims: dict[tuple[str, int], Index] = field(default_factory=dict)  # positions of each parameter's dimension
    values: dict[fx.Node, Value | list[Value]] = field(default_factory=dict)
    consumers: list[Consumer] = field(default_factory=list)
    produced: list[Index] = field(default_factory=list)  # positions that a linear map writes
    ties: list[tuple[Index, Index]] = field(default_factory=list)
    frozen: list[tuple[Index, str]] = field(default_factory=list)
    view_layouts: dict[fx.Node, int] = field(default_factory=dict)
    sized_views: list[SizedView] = field(default_factory=list)
    inline_norms: list[InlineNorm] = field(default_factory=list)
    never_single: list[Index] = field(default_factory=list)  # a dimension of length one would be squeezed away
    in_steps: list[tuple[Index, int]] = field(default_factory=list)  # a kernel takes multiples of so many only
    refused_views: set[fx.Node] = field(default_factory=set)
    computed: set[fx.Node] = field(default_factory=set)  # values that depend on the model's inputs
    size: int = 0

    def add_parameter(self, parameter: str, shape: Iterable[int], is_buffer: bool = False) -> Value:
        """Fresh positions for every dimension of a parameter or buffer, each dimension its own source of zeros."""
        axes = []
        for dim, length in enumerate(shape):
            positions = self.dims[parameter, dim] = self.new_positions(length)
            source = ZeroSource(((parameter, dim),), is_buffer)
            axes.append(Axis(positions, ((source, np.arange(length, dtype=np.int64)),)))
        return tuple(axes)

    def new_positions(self, length: int) -> Index:
        """Fresh positions, held by no parameter."""
        self.size += length
        return np.arange(self.size - length, self.size, dtype=np.int64)

    def tie(self, first: Index, second: Index) -> None:
        """Index by index, the two are the same channel."""
        self.ties.append((first.ravel(), second.ravel()))

    def parameter_name(self, value: object) -> str | None:
        """The parameter or buffer that a value of the graph is, None where it is computed."""
        return self.names.get(value.name) if isinstance(value, fx.Node) else None

    def freeze(self, axes: Iterable[Axis | None], reason: str) -> None:
        """The channels of these axes stay, for the reason given."""
        self.frozen.extend((axis.positions, reason) for axis in axes if axis is not None)

    def channel_ids(self) -> Index:
        """For each position the smallest position of its channel: connected components by hooking and jumping."""
        parent = np.arange(self.size, dtype=np.int64)
        if not self.ties:
            return parent
        first, second = (np.concatenate([pair[end] for pair in self.ties]) for end in range(2))
        while True:
            left, right = parent[first], parent[second]  # roots
            apart = left != right
            if not apart.any():
                return parent
            first, second, left, right = first[apart], second[apart], left[apart], right[apart]
            np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
            while not np.array_equal(parent, jumped := parent[parent]):
                parent = jumped


def join_axes(axes: Sequence[Axis]) -> Axis:
    """The axis of several that are tied index by index; a channel is zero only where it is in each of them."""
    view = next((axis.laid_out_by for axis in axes if axis.laid_out_by is not None), None)
    return Axis(axes[0].positions, merge_sources(axes), view, all(axis.zero for axis in axes))


def merge_sources(axes: Iterable[Axis]) -> tuple[tuple[ZeroSource, Index], ...]:
    """The sources of several axes that are added up: a channel is zero only where each of them is."""
    merged: dict[tuple[ZeroSource, bytes], tuple[ZeroSource, Index]] = {}
    for source, rows in (entry for axis in axes for entry in axis.sources):
        merged.setdefault((source, rows.tobytes()), (source, rows))
    return tuple(merged.values())


def axes_in(value: Value | list[Value] | None) -> Iterator[Axis]:
    """All axes of a value or of a list of values."""
    for entry in value or ():
        if isinstance(entry, Axis):
            yield entry
        elif entry is not None:
            yield from axes_in(entry)
