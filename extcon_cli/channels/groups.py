"""Channel groups: which slices of which parameters go together, and which stay.

A *channel* is a set of positions that can only be removed together; a *group* is the set of channels that touch
the same parameters, layer1's residual stream for example. Nothing here looks at the values of the parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import fx, nn

from extcon_cli.channels import rules
from extcon_cli.channels.axes import Analysis, Index, Value, flat
from extcon_cli.channels.trace import Graph, holds_tensor, named_tensors, operator, source


@dataclass(frozen=True)
class Slice:
    """Where the channels of a group lie in one dimension of one parameter or buffer."""

    parameter: str
    dim: int
    index: Index  # (channels, positions a channel)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that touch the same parameters. `reason` says why they must stay; empty: they can be removed.

    `silencers` are the slices F whose zeros make a channel zero (DESIGN.md, section 3): (gamma, beta) of every
    normalised producer, (row, bias) of a producer without normalisation.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    silencers: tuple[Slice, ...]
    reason: str = ""

    @property
    def prunable(self) -> bool:
        """Whether channels of this group can be removed at all."""
        return not self.reason


@dataclass(frozen=True)
class Channels:
    """The result of the analysis: the groups, and what the constants pass needs to know."""

    graph: Graph
    analysis: Analysis
    roots: Index  # (atoms,) the channel of each atom
    groups: tuple[ChannelGroup, ...]

    def ids(self, group: ChannelGroup) -> Index:
        """What names each channel of a group in `roots`: (channels,)."""
        first = group.slices[0]
        return self.roots[self.analysis.dims[first.parameter, first.dim][first.index[:, 0]]]


def analyse(module: nn.Module, graph: Graph) -> Channels:
    """Walk the graph once, apply each operator's rule, and gather what was tied into groups."""
    analysis = _walk(module, graph, {})
    for _ in range(3):  # a view lays channels out over at most three dimensions that matter: (3, heads, width)
        if not analysis.summed:
            break
        layout = {node: analysis.layout.get(node, 0) + (node in analysis.summed)
                  for node in analysis.summed | set(analysis.layout)}  # fmt: skip
        analysis = _walk(module, graph, layout)
    roots = analysis.channels()
    reasons = _reasons(analysis, roots)
    return Channels(graph, analysis, roots, tuple(_gather(analysis, roots, reasons)))


def _walk(module: nn.Module, graph: Graph, layout: dict[fx.Node, int]) -> Analysis:
    tensors = named_tensors(module)
    analysis = Analysis(names=dict(graph.stored), modules=dict(module.named_modules()), layout=layout)
    held: dict[str, Value] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            name = graph.stored.get(node.name)
            if name is not None and tensors[name].dim() > 0:
                if name not in held:
                    held[name] = analysis.allocate(name, tensors[name].shape)
                analysis.values[node] = held[name]
        elif node.op == "output":
            for result in node.all_input_nodes:
                analysis.freeze(flat(analysis.values.get(result)), "is an output of the model")
        elif node.op == "call_function":
            rule = rules.flow_of(node)
            inputs = [axis for read in node.all_input_nodes for axis in flat(analysis.values.get(read))]
            if rule is not None and (inputs or holds_tensor(node)):
                analysis.values[node] = rule(analysis, node)
            elif inputs:
                analysis.freeze(inputs, f"no rule for operator {operator(node)} in {source(node)}")
    return analysis


def _reasons(analysis: Analysis, roots: Index) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for atoms, reason in analysis.frozen:
        for root in np.unique(roots[atoms]).tolist():
            reasons.setdefault(root, reason)
    return reasons


def _gather(analysis: Analysis, roots: Index, reasons: dict[int, str]) -> Iterable[ChannelGroup]:
    """Group the produced channels by the parameters that they touch, in the order of the model."""
    produced = np.unique(roots[np.concatenate(analysis.produced)]) if analysis.produced else np.empty(0, np.int64)
    held = _positions(analysis.dims, roots, produced)
    silencers = _silencers(analysis, roots, produced)
    together: dict[tuple[Slots, Slots, str], list[int]] = {}
    for root in produced.tolist():
        slots = tuple((slot, len(positions)) for slot, positions in held[root].items())
        silent = tuple((slot, len(positions)) for slot, positions in silencers.get(root, {}).items())
        together.setdefault((slots, silent, reasons.get(root, "")), []).append(root)
    for (slots, silent, reason), members in together.items():
        if not reason and not silent:
            reason = "nothing reads these channels through a linear map, so that nothing silences them"
        yield ChannelGroup(
            name=_name(slots),
            size=len(members),
            slices=_slices(slots, members, held),
            silencers=_slices(silent, members, silencers),
            reason=reason,
        )


Positions = dict[tuple[str, int], list[int]]  # (parameter, dim) -> positions of one channel
Slots = tuple[tuple[tuple[str, int], int], ...]  # (parameter, dim), and how many positions of it a channel holds


def _positions(dims: dict[tuple[str, int], Index], roots: Index, wanted: Index) -> dict[int, Positions]:
    found: dict[int, Positions] = {int(root): {} for root in wanted}
    for slot, atoms in dims.items():
        for position, root in enumerate(roots[atoms].tolist()):
            if root in found:
                found[root].setdefault(slot, []).append(position)
    return found


def _silencers(analysis: Analysis, roots: Index, wanted: Index) -> dict[int, Positions]:
    """For every channel the slices of the sites that feed its consumers."""
    found: dict[int, dict[tuple[str, int], set[int]]] = {int(root): {} for root in wanted}
    for consumer in analysis.consumers:
        for root, column in zip(roots[consumer.axis.atoms].tolist(), range(len(consumer.axis.atoms)), strict=True):
            if root not in found:
                continue
            for site, rows in consumer.axis.sites:
                if rows[column] >= 0:
                    for part in site.parts:
                        found[root].setdefault(part, set()).add(int(rows[column]))
    return {root: {slot: sorted(rows) for slot, rows in sorted(slots.items())} for root, slots in found.items()}


def _slices(slots: Slots, members: list[int], found: dict[int, Positions]) -> tuple[Slice, ...]:
    return tuple(
        Slice(parameter, dim, np.array([found[root][parameter, dim] for root in members], dtype=np.int64))
        for (parameter, dim), _ in slots
    )


def _name(slots: Slots) -> str:
    """The module whose filters the channels are: the first weight with them as rows."""
    for (parameter, dim), _ in slots:
        if dim == 0:
            return parameter.rpartition(".")[0] or parameter
    return "?"
