"""Which positions of which dimension are the same channel: atoms, axes, and what is known of them.

An *atom* is one position of one dimension of one parameter. Operators tie atoms together: what they tie is one
channel. This file holds the bookkeeping; what each operator does stands in `rules/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """Parameters whose i-th slices, all zero, make channel i zero: (gamma, beta), or (row, bias)."""

    parts: tuple[tuple[str, int], ...]  # (parameter, dim)


@dataclass(frozen=True)
class Axis:
    """A dimension that carries channels. `atoms[i]` is the channel of position i."""

    atoms: Index  # (size,)
    sites: tuple[tuple[Site, Index], ...] = ()  # rows[i]: the site's slice that feeds position i, -1: none
    split: fx.Node | None = None  # the view that laid longer channels out along this dimension, and had a choice
    zero: bool = True  # the sites at zero make it zero; False: a constant, such as sigmoid(0)

    def take(self, positions: Index) -> Axis:
        """The axis after an operator has picked, repeated or reordered its positions."""
        return Axis(
            self.atoms[positions], tuple((site, rows[positions]) for site, rows in self.sites), self.split, self.zero
        )


Value = tuple["Axis | None", ...]  # one entry a dimension; None: it carries no channels


@dataclass(frozen=True)
class Consumer:
    """A linear map that reads channels: slices `dim` of `weight` are the channels of the node it reads."""

    node: fx.Node
    weight: str
    dim: int
    bias: str | None
    read: fx.Node  # the value whose channels are read
    read_dim: int
    axis: Axis
    groups: int = 1
    padded: bool = False  # zeros are read at the borders, so a constant input is not constant there
    counted: bool = False  # a norm, whose mean counts removed zeros but no other constants


@dataclass(frozen=True)
class Split:
    """A view, which may name sizes in the model's code, and the channels along one dimension of its result."""

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

    `layout` says for a view along which of its dimensions channels run, counted from the last long one; the walk
    notes in `summed` the views whose choice a contraction refuses, since it sums over that dimension.
    """

    names: dict[str, str] = field(default_factory=dict)  # placeholder -> the parameter that it holds
    modules: Mapping[str, nn.Module] = field(default_factory=dict)  # by path
    dims: dict[tuple[str, int], Index] = field(default_factory=dict)  # atoms of each parameter's dimension
    values: dict[fx.Node, Value | tuple[Value, ...]] = field(default_factory=dict)
    consumers: list[Consumer] = field(default_factory=list)
    produced: list[Index] = field(default_factory=list)  # atoms that a linear map writes
    ties: list[tuple[Index, Index]] = field(default_factory=list)
    frozen: list[tuple[Index, str]] = field(default_factory=list)
    layout: dict[fx.Node, int] = field(default_factory=dict)
    splits: list[Split] = field(default_factory=list)
    norms: list[InlineNorm] = field(default_factory=list)
    summed: set[fx.Node] = field(default_factory=set)
    size: int = 0

    def allocate(self, parameter: str, shape: Iterable[int]) -> Value:
        """Fresh atoms for every dimension of a parameter, each its own site."""
        axes = []
        for dim, length in enumerate(shape):
            atoms = self.dims[parameter, dim] = self.unnamed(length)
            axes.append(Axis(atoms, ((Site(((parameter, dim),)), np.arange(length, dtype=np.int64)),)))
        return tuple(axes)

    def unnamed(self, length: int) -> Index:
        """Fresh atoms for positions that no parameter holds."""
        self.size += length
        return np.arange(self.size - length, self.size, dtype=np.int64)

    def tie(self, first: Index, second: Index) -> None:
        """Position by position, the two are the same channel."""
        self.ties.append((first.ravel(), second.ravel()))

    def freeze(self, axes: Iterable[Axis | None], reason: str) -> None:
        """The channels of these axes stay, for the reason given."""
        self.frozen.extend((axis.atoms, reason) for axis in axes if axis is not None)

    def channels(self) -> Index:
        """For each atom the smallest atom of its channel: connected components by hooking and jumping."""
        parent = np.arange(self.size, dtype=np.int64)
        if not self.ties:
            return parent
        first = np.concatenate([pair[0] for pair in self.ties])
        second = np.concatenate([pair[1] for pair in self.ties])
        while True:
            left, right = parent[first], parent[second]
            if np.array_equal(left, right):
                return parent
            low = np.minimum(left, right)
            np.minimum.at(parent, left, low)
            np.minimum.at(parent, right, low)
            while not np.array_equal(parent, jumped := parent[parent]):
                parent = jumped


def joined(axes: Sequence[Axis]) -> Axis:
    """The axis of several that are tied position by position; a channel is zero only where it is in each of them."""
    split = next((axis.split for axis in axes if axis.split is not None), None)
    return Axis(axes[0].atoms, merge_sites(axes), split, all(axis.zero for axis in axes))


def merge_sites(axes: Iterable[Axis]) -> tuple[tuple[Site, Index], ...]:
    """The sites of several axes that are added up: a channel is zero only where each of them is."""
    merged: dict[tuple[Site, bytes], tuple[Site, Index]] = {}
    for site, rows in (entry for axis in axes for entry in axis.sites):
        merged.setdefault((site, rows.tobytes()), (site, rows))
    return tuple(merged.values())


def flat(value: Value | tuple[Value, ...] | None) -> Iterator[Axis]:
    """All axes of a value or of a list of values."""
    for entry in value or ():
        if isinstance(entry, Axis):
            yield entry
        elif entry is not None:
            yield from flat(entry)
