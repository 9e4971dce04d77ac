"""Whether a shrunk module computes the same: its graph beside the first one, operator by operator.

A removal changes sizes, and what the rules account for: sizes named in views, bounds of slices, the eps of a norm in
the model's own code, a bias that took over a constant, the modules in `narrow.py`. Any other difference means that the
model takes a number or a decision from a width, which a comparison of outputs can be blind to. Pure: graphs in,
differences out. That the weights were cut as they should be is for the outputs to show.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Axis, Index, Mask
from extcon_cli.channels.analysis.groups import Channels
from extcon_cli.channels.analysis.operator import Operator, shape
from extcon_cli.channels.analysis.rules.joins import CUTS
from extcon_cli.channels.analysis.rules.linear import CONVOLUTIONS
from extcon_cli.channels.analysis.trace import Graph
from extcon_cli.channels.removal.graph_units import LAYOUTS, Call, first_node, shapes_of, unit_name, units, value_of
from extcon_cli.channels.removal.rewrites import RemovalPlan

SIZES = {
    **dict.fromkeys((*LAYOUTS, "expand", "unflatten"), ("size", "shape", "sizes")),
    **dict.fromkeys(CUTS, ("split_size", "split_sizes")),
    **dict.fromkeys(("pad", "constant_pad_nd"), ("pad",)),
    "affine_grid_generator": ("size",),
}
"""Operators whose arguments name the shape of the result, which is checked itself."""

PICKS = {
    **dict.fromkeys(("slice", "slice_scatter"), ("start", "end")),
    **dict.fromkeys(("select", "select_scatter"), ("index",)),
    "narrow": ("start", "length"),
}
"""Operators that pick positions of one dimension by number: which they pick is checked, not how they say it."""


@dataclass(frozen=True)
class GraphDifference:
    """One operator that is not what it was, and the line of the model that it comes from."""

    line: str
    what: str
    node: fx.Node | None = field(default=None, compare=False)  # of the first graph

    def __str__(self) -> str:
        return f"{self.what} in {self.line}"


def graph_differences(
    channels: Channels,
    plan: RemovalPlan,
    before: Graph,
    after: Graph,
    exchanged: Collection[str] = (),
    *,
    whole: bool = True,
) -> list[GraphDifference]:
    """What the graph of the shrunk module does otherwise than that of the first one, but for what `plan` accounts for.

    Args:
        channels: of the module before the removal.
        plan: of the removal.
        before: one of its graphs.
        after: the graph of the shrunk module, traced with the same inputs.
        exchanged: paths of the modules whose class the removal changed.
        whole: whether `after` goes to the end; else the last difference is the operator that it did not come to.

    Returns:
        Differences with the lines that they come from. Where operators are others, only the first: what follows
        cannot be compared.
    """
    return _Comparison(channels, plan, before, after, whole).run(exchanged)


@dataclass
class _Comparison:
    channels: Channels
    plan: RemovalPlan
    before: Graph
    after: Graph
    whole: bool
    same: dict[fx.Node, fx.Node] = field(default_factory=dict)  # a node of the first graph -> that of the second
    found: list[GraphDifference] = field(default_factory=list)
    resized: set[fx.Node] = field(default_factory=set)  # of the first graph, whose shapes are not those expected

    def __post_init__(self) -> None:
        self.gone = _removed(self.channels, self.plan)
        self.masks: dict[int, Mask] = {}  # which of an axis' positions stay, by their `id`: many values have the same
        self.folds = {fold.weight: fold.bias for fold in self.plan.folds}
        self.epsilons = {norm.owner: (norm.eps, norm.eps * (norm.before / norm.after)) for norm in self.plan.norms}

    def run(self, exchanged: Collection[str]) -> list[GraphDifference]:
        self._placeholders()
        firsts, seconds = list(units(self.before, exchanged)), list(units(self.after, exchanged))
        for first, second in zip(firsts, seconds, strict=False):
            if unit_name(first) != unit_name(second):
                self._note(first_node(first), f"{unit_name(first)} becomes {unit_name(second)}")
                return self.found
            if isinstance(first, Call):
                assert isinstance(second, Call)
                self._calls(first, second)
            else:
                assert isinstance(second, fx.Node)
                self._nodes(first, second)
        if len(firsts) != len(seconds):
            longer = max(firsts, seconds, key=len)[min(len(firsts), len(seconds))]
            self._note(first_node(longer), f"{len(firsts)} operators become {len(seconds)}")
        return self.found

    def _note(self, node: fx.Node, what: str) -> None:
        self.found.append(GraphDifference(Operator(node).where, what, node))

    def _placeholders(self) -> None:
        """Parameters and inputs by name; constants of the model by their values."""
        there = {node.name: node for node in self.after.nodes if node.op == "placeholder"}
        for node in (node for node in self.before.nodes if node.op == "placeholder"):
            other = there.get(node.name)
            if other is None:
                if self.whole:
                    self._note(node, f"{node.name} is gone")
                continue
            self.same[node] = other
            first, second = self.before.constants.get(node.name), self.after.constants.get(node.name)
            if (first is None) != (second is None) or (first is not None and not _equal(first, second)):
                self._note(next(iter(node.users), node), "a constant takes another value")

    def _calls(self, first: Call, second: Call) -> None:
        node = first.nodes[-1]
        if {self.same.get(read) for read in first.reads} != set(second.reads):
            self._note(node, f"{first.path} reads other values")
        rest = list(second.gives)
        for given in first.gives:
            sizes = self._sizes(given)
            fitting = next((other for other in rest if shapes_of(other) == sizes), None)
            if fitting is None:
                self._note(given, f"{first.path} gives {shapes_of(given)}, and no longer {sizes} of it")
            else:
                rest.remove(fitting)
                self.same[given] = fitting

    def _nodes(self, first: fx.Node, second: fx.Node) -> None:
        self.same[first] = second
        for name, old, new in _arguments(first, second):
            mapped = fx.map_arg(old, lambda node: self.same.get(value_of(node), node))
            if not _alike(mapped, fx.map_arg(new, value_of)) and not self._accounted(first, second, name, old, new):
                self._note(first, f"{Operator(first).name} takes {_said(new)} for {_said(old)}")
        if Operator(first).name in PICKS and first.op == "call_function":
            self._picks(first, second)
        if first.op == "call_function" and (sizes := self._sizes(first)) != shapes_of(second):
            self.resized.add(first)
        if first in self.resized and self.resized.isdisjoint(map(value_of, first.all_input_nodes)):  # here it begins
            self._note(
                first, f"{Operator(first).name} gives {shapes_of(second)} where {sizes} are left of {shapes_of(first)}"
            )

    def _accounted(self, first: fx.Node, second: fx.Node, name: str, old: object, new: object) -> bool:
        """Whether a rule accounts for another value of an argument."""
        kind = Operator(first).name
        if name in SIZES.get(kind, ()) or name in PICKS.get(kind, ()):
            return True
        if kind in CONVOLUTIONS and name == "groups":  # one filter, or m, for each channel
            return all(Operator(node).value("groups") == _channels_read(node) for node in (first, second))
        if name == "bias" and old is None and isinstance(new, fx.Node):
            weight = Operator(first).value("weight")
            return self.folds.get(self.before.stored.get(weight.name, "")) == self.after.stored.get(new.name, "-")
        if type(old) is float and type(new) is float:
            return self.epsilons.get(Operator(first).module) == (old, new)
        return False

    def _picks(self, first: fx.Node, second: fx.Node) -> None:
        """Whether what is left of the positions picked is what is picked of those that are left."""
        read = Operator(first).input(0)
        dim = Operator(first).dim(len(shape(read)))
        kept = self._kept(read, dim)
        picked = _picked(first, dim)
        left = np.cumsum(kept)[picked[kept[picked]]] - 1
        if not np.array_equal(left, _picked(second, dim)):
            self._note(first, f"{Operator(first).name} picks other positions")

    def _kept(self, node: fx.Node, dim: int) -> Mask:
        """Which positions along a dimension of a value stay."""
        value = self.channels.analysis.values.get(node, ())
        axis = value[dim] if dim < len(value) else None
        size = shape(node)[dim]
        if not isinstance(axis, Axis) or len(axis.positions) != size:
            return np.ones(size, bool)
        return self._staying(axis)

    def _sizes(self, node: fx.Node) -> list[tuple[int, ...]]:
        """The shapes of a node's tensors with what is removed taken off."""
        shapes, value = shapes_of(node), self.channels.analysis.values.get(node, ())
        values = list(value) if isinstance(value, list) else [value]
        values += [()] * (len(shapes) - len(values))
        return [
            tuple(self._left(size, axis) for size, axis in zip(sizes, _filled(axes, len(sizes)), strict=True))
            for sizes, axes in zip(shapes, values, strict=False)
        ]

    def _left(self, size: int, axis: object) -> int:
        if not isinstance(axis, Axis) or len(axis.positions) != size:
            return size
        return int(np.count_nonzero(self._staying(axis)))

    def _staying(self, axis: Axis) -> Mask:
        key = id(axis.positions)
        if key not in self.masks:
            self.masks[key] = ~self.gone[self.channels.channel_ids[axis.positions]]
        return self.masks[key]


def _filled(axes: object, rank: int) -> list[object]:
    """One entry a dimension; a value whose channels are not known has none."""
    found = list(axes) if isinstance(axes, tuple) else []
    return found if len(found) == rank else [None] * rank


def _removed(channels: Channels, plan: RemovalPlan) -> Mask:
    """Which channels go, by their ids."""
    gone = np.zeros(len(channels.channel_ids), bool)
    for cut in plan.cuts:
        positions: Index | None = channels.analysis.dims.get((cut.parameter, cut.dim))
        if positions is not None:
            gone[channels.channel_ids[positions[cut.goes]]] = True
    return gone


def _arguments(first: fx.Node, second: fx.Node) -> Iterator[tuple[str, Any, Any]]:
    """The arguments of two nodes of one operator beside each other, by name."""
    schema = getattr(first.target, "_schema", None)
    if schema is None or first.op != "call_function":
        yield "", (first.args, first.kwargs), (second.args, second.kwargs)
    else:
        for parameter in schema.arguments:
            yield parameter.name, Operator(first).value(parameter.name), Operator(second).value(parameter.name)


def _alike(first: object, second: object) -> bool:
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_alike(first[key], second[key]) for key in first)
    if isinstance(first, float) and first != first:
        return isinstance(second, float) and second != second
    return type(first) is type(second) and bool(first == second)


def _equal(first: Tensor, second: Tensor | None) -> bool:
    """The same type, shape and numbers, NaN included."""
    if second is None or first.dtype != second.dtype or first.shape != second.shape:
        return False
    return bool(((first == second) | (first.isnan() & second.isnan())).all())


def _picked(node: fx.Node, dim: int) -> Index:
    """The positions that an operator picks along a dimension."""
    op = Operator(node)
    numbers = torch.arange(shape(op.input(0))[dim])
    if op.name in ("select", "select_scatter"):
        return numbers[op.integer("index")].reshape(1).numpy()
    if op.name == "narrow":
        return numbers[op.integer("start") :][: op.integer("length")].numpy()
    return numbers[slice(op.value("start"), op.value("end"), op.value("step"))].numpy()


def _channels_read(node: fx.Node) -> int:
    """How many channels a convolution reads; its input may lack a batch."""
    read, weight = (shape(Operator(node).input(position)) for position in range(2))
    return read[len(read) - len(weight) + 1]


def _said(value: object) -> str:
    return f"another value ({value})" if isinstance(value, fx.Node) else str(value)
