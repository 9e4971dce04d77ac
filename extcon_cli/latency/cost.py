"""Latency as a function of widths: each layer's measured times in between, and what else a model does by its traffic.

The time of a layer that reads a share i and gives a share o of its channels is a + b i + c o + d i o, none of them
negative, fitted to times at some widths; what the layers do not take of the whole model's time lies in its other
operators, in proportion to what they write. So latency is a sum of products of widths, as other costs are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from extcon_cli.channels import Channels, Cost
from extcon_cli.channels.costs import Dim, cost_of, shrinking
from extcon_cli.channels.layers import LayerShape, PlacedLayer, Product, linear_layers, moved
from extcon_cli.export.formats import RUNTIMES
from extcon_cli.latency.table import Table

SHARES = ((1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.5, 0.5), (0.25, 0.25))
"""Of the channels that a layer reads and gives: the widths that it is measured at."""
FIRST = 4.0
"""How much more than another the time of the layer as it is counts."""
STEPS = (1, 2, 4, 8, 16, 32)
"""Multiples that widths may be held to."""
NEAR = 0.1
"""By which share more than between the multiples around it a width may take that is as good as they are."""
LARGEST = 4
"""Layers that the multiple is looked for in: those that take longest."""

FUSED = ("batch_norm", "relu", "hardtanh", "relu6", "clamp")
"""Operators that runtimes of files make part of the layer before them."""

Term = tuple[float, Sequence[Dim]]


@dataclass(frozen=True)
class Layers:
    """The layers of a model that a table is asked for."""

    placed: tuple[PlacedLayer | Product, ...]
    channels: Channels

    @classmethod
    def of(cls, channels: Channels, batch: int) -> Layers:
        """At a batch size; the largest first."""
        found = sorted(linear_layers(channels, batch), key=lambda layer: -layer.shape.macs)
        return cls(tuple(found), channels)

    def __len__(self) -> int:
        return len(self.placed)

    def cost(self, table: Table, whole: float, progress: Callable[[], object] = lambda: None) -> Cost:
        """Latency as a share of `whole`, the seconds of the model as it is; `progress` is called after each layer."""
        shrinks, terms = shrinking(self.channels), list[Term]()
        for layer in self.placed:
            terms += _terms(layer, table, shrinks)
            progress()
        layers = cost_of(self.channels, terms)
        none = np.zeros(len(layers.groups))
        taken = layers.total(none)
        fused = FUSED if RUNTIMES[table.setting.runtime] is not None else ()
        written_by = list(moved(self.channels, without=fused))
        others = cost_of(self.channels, written_by)
        left, written = max(0.0, whole - taken), others.total(none)
        scale = 1 / max(taken, whole)
        return cost_of(
            self.channels,
            chain(
                ((coefficient * scale, dims) for coefficient, dims in terms),
                ((c * left / whole / written, dims) for c, dims in written_by if left and written),
            ),
        ).anchored(1.0)

    def multiple(self, table: Table) -> int:
        """The least number such that widths which are multiples of it are as fast as those around them."""
        shrinks = shrinking(self.channels)
        ruled = [layer for layer in self.placed if isinstance(layer, PlacedLayer) and shrinks(layer.outputs)]
        shapes = dict.fromkeys(layer.shape for layer in ruled if layer.shape.outputs >= 2 * STEPS[-1])
        excess = [_excess(shape, table) for shape in list(shapes)[:LARGEST]]
        if not excess:
            return 1
        slower = np.mean(excess, axis=0)
        bad = [step for step, share in zip(STEPS[:-1], slower.tolist(), strict=True) if share > NEAR]
        return 2 * max(bad) if bad else 1


def _terms(layer: PlacedLayer | Product, table: Table, shrinks: Callable[[Dim], bool]) -> Iterator[Term]:
    """What a layer takes, as coefficients of products of widths."""
    if isinstance(layer, Product):
        (seconds,) = table.measure([layer.shape])
        yield seconds / np.prod([_length(dim) for dim in layer.dims]), layer.dims
        return
    reads = layer.inputs if layer.inputs is not None and shrinks(layer.inputs) else None
    gives = layer.outputs if shrinks(layer.outputs) else None
    points = list(dict.fromkeys((i if reads else 1.0, o if gives else 1.0) for i, o in SHARES))
    if layer.inputs is None:  # what it reads it gives
        points = list(dict.fromkeys((o, o) for _, o in points))
    shapes = [_narrowed(layer.shape, *point) for point in points]
    times = table.measure(shapes)
    shares = [(s.inputs / layer.shape.inputs, s.outputs / layer.shape.outputs) for s in shapes]
    for coefficient, (by_inputs, by_outputs) in _fitted(shares, times, bool(reads), bool(gives)):
        dims = [dim for dim, used in ((reads, by_inputs), (gives, by_outputs)) if used and dim is not None]
        yield coefficient / np.prod([_length(dim) for dim in dims]), dims


def _fitted(
    shares: Sequence[tuple[float, float]], times: Sequence[float], by_inputs: bool, by_outputs: bool
) -> Iterator[tuple[float, tuple[bool, bool]]]:
    """a, b, c and d with the least relative error, none of them negative; each with what it is multiplied by.

    The first time, of the layer as it is, counts most: there a decision begins.
    """
    kinds = [(i, o) for i in (False, True) for o in (False, True) if (by_inputs or not i) and (by_outputs or not o)]
    seconds = np.array(times)
    columns = np.array([[(x if i else 1.0) * (y if o else 1.0) for i, o in kinds] for x, y in shares])
    weights = np.where(np.arange(len(seconds)) == 0, FIRST, 1.0)
    columns *= (weights / seconds)[:, None]
    best, chosen, error = np.zeros(0), tuple[int, ...](), np.inf
    for taken in chain.from_iterable(combinations(range(len(kinds)), n) for n in range(1, len(kinds) + 1)):
        found = np.linalg.lstsq(columns[:, taken], weights, rcond=None)[0]
        off = float(np.square(columns[:, taken] @ found - weights).sum())
        if (found >= 0).all() and off < error - 1e-12:
            best, chosen, error = found, taken, off
    yield from ((float(value), kinds[place]) for value, place in zip(best, chosen, strict=True))


def _excess(shape: LayerShape, table: Table) -> list[float]:
    """How much longer odd multiples of each step take than what lies between the largest multiples around them."""
    largest = STEPS[-1]
    top, read = (max(2 * largest, 3 * size // 4 // largest * largest) for size in (shape.outputs, shape.inputs))

    def at(less: int) -> LayerShape:
        inputs = read - less if shape.inputs >= 2 * largest and shape.groups == 1 else shape.inputs
        return shape.at(top - less, top - less) if shape.depthwise else shape.at(inputs, top - less)

    high, low, *between = table.measure([at(0), at(largest), *(at(step) for step in STEPS[:-1])])
    line = [high + (low - high) * step / largest for step in STEPS[:-1]]
    return [seconds / expected - 1 for seconds, expected in zip(between, line, strict=True)]


def _narrowed(shape: LayerShape, reads: float, gives: float) -> LayerShape:
    inputs, outputs = _width(shape.inputs, reads, shape.groups), _width(shape.outputs, gives, shape.groups)
    return shape.at(inputs, inputs if shape.depthwise else outputs)


def _width(size: int, share: float, groups: int) -> int:
    """About this share of a width: a multiple of 16 where it is wide, and of the groups."""
    if share == 1:
        return size
    unit = 16 if size >= 64 else 8 if size >= 32 else 1
    unit = unit if groups in (1, size) else groups
    return max(unit, round(share * size / unit) * unit)


def _length(dim: Dim) -> int:
    node, place = dim
    return int(node.meta["val"].shape[place])
