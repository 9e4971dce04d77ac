"""A graph as the units in which two graphs are compared: operators in order, and calls of modules as one.

What changes no value is no unit, since torch or a tracer puts it in or leaves it out. Knows no removal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor, fx

from extcon_cli.channels.analysis.operator import Operator, dtype
from extcon_cli.channels.analysis.rules.inline_norms import CASTS
from extcon_cli.channels.analysis.trace import Graph

LAYOUTS = ("view", "_unsafe_view", "reshape")
"""Operators that give another shape: torch takes one or another of them by how the numbers lie in memory."""

PASSING = ("contiguous", "clone", "_assert_tensor_metadata")
"""Operators that change no value: torch leaves the first two out where memory is in order, tracers put the last in.
CASTS change none where the type is the same."""


@dataclass(frozen=True)
class Call:
    """The operators of one call of a module that a removal exchanged: compared from outside only."""

    path: str
    nodes: tuple[fx.Node, ...]

    @property
    def reads(self) -> list[fx.Node]:
        """The values that come in, parameters aside."""
        inside = set(self.nodes)
        found = dict.fromkeys(value_of(read) for node in self.nodes for read in node.all_input_nodes)
        return [read for read in found if read not in inside and read.op != "placeholder"]

    @property
    def gives(self) -> list[fx.Node]:
        """The values that others read."""
        inside = set(self.nodes)
        found = dict.fromkeys(value_of(node) for node in self.nodes if any(user not in inside for user in node.users))
        return [node for node in found if node in inside]


def units(graph: Graph, exchanged: Collection[str]) -> Iterator[fx.Node | Call]:
    """Operators and the output in order, those of a call of an exchanged module together."""

    def inside(node: fx.Node) -> str | None:
        stack = (node.meta.get("nn_module_stack") or {}).values()
        return next((path for path, _ in stack if path in exchanged), None) if node.op != "output" else None

    for path, run in groupby((node for node in graph.nodes if node.op != "placeholder"), inside):
        if path is None:
            yield from (node for node in run if not _passes(node))
        else:
            yield Call(path, tuple(run))


def value_of(node: fx.Node) -> fx.Node:
    """The node that a value comes from, past what changes nothing."""
    while _passes(node):
        node = node.all_input_nodes[0]
    return node


def _passes(node: fx.Node) -> bool:
    """Whether it changes no value."""
    name = Operator(node).name if node.op == "call_function" else ""
    return name in PASSING or (name in CASTS and dtype(node) == dtype(Operator(node).input(0)))


def first_node(unit: fx.Node | Call) -> fx.Node:
    """The node that a unit begins with."""
    return unit.nodes[0] if isinstance(unit, Call) else unit


def unit_name(unit: fx.Node | Call) -> str:
    """What a unit is: a module by its path, an operator by its name, all that lay out alike."""
    if isinstance(unit, Call):
        return unit.path
    return "view" if Operator(unit).name in LAYOUTS else str(unit.target)


def shapes_of(node: fx.Node) -> list[tuple[int, ...]]:
    """The shapes of the tensors that a node holds: one, several, or none."""
    value = node.meta.get("val")
    parts = value if isinstance(value, (list, tuple)) else [value]
    return [tuple(int(size) for size in part.shape) for part in parts if isinstance(part, Tensor)]
