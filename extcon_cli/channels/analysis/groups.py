"""Channel groups: which slices of which parameters go together, and which stay.

A *channel* is a set of positions that can only be removed together; a *group* is the set of channels that touch
the same parameters, layer1's residual stream for example. Nothing here looks at the values of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import fx, nn

from extcon_cli.channels.analysis import rules
from extcon_cli.channels.analysis.axes import Analysis, Axis, Consumer, Index, Mask, Value, axes_in
from extcon_cli.channels.analysis.operator import FlowOperator, NotLiteral, holds_tensor
from extcon_cli.channels.analysis.trace import Graph
from extcon_cli.channels.modules import named_modules, named_tensors


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the channels of a group lie in one dimension of one parameter or buffer."""

    parameter: str
    dim: int
    index: Index  # (channels, indices a channel), along the dimension


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that touch the same parameters. `reason` says why they must stay; empty: they can be removed.

    `zeroing_slices` are the slices F whose zeros make a channel zero (docs/method/catalyst.md): (gamma, beta) of every
    normalised producer, (row, bias) of a producer without normalisation.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    zeroing_slices: tuple[Slice, ...]
    reason: str = ""

    @property
    def prunable(self) -> bool:
        """Whether channels of this group can be removed at all."""
        return not self.reason


@dataclass(frozen=True)
class Channels:
    """The result of the analysis: the groups, and what the constants pass needs to know."""

    graphs: tuple[Graph, ...]  # one for each example
    analysis: Analysis
    channel_ids: Index  # (positions,) the channel of each position, named by the smallest position in it
    groups: tuple[ChannelGroup, ...]
    unreached: tuple[str, ...] = ()
    """Modules with parameters that the traced passes do not read."""

    @property
    def consumers(self) -> list[Consumer]:
        """The maps that read channels, in the order in which they run."""
        return self.analysis.consumers

    def ids_along(self, axis: Axis) -> Index:
        """The id of the channel at each index of an axis: (size,)."""
        return self.channel_ids[axis.positions]

    def ids_of(self, group: ChannelGroup) -> Index:
        """The id of each channel of a group: (channels,)."""
        first = group.slices[0]
        return self.channel_ids[self.analysis.dims[first.parameter, first.dim][first.index[:, 0]]]

    def least(self, group: ChannelGroup) -> int:
        """How many channels of a group have to stay: a dimension of length one may be squeezed away."""
        pairs = self.analysis.never_single
        return 1 + bool(pairs and np.isin(self.ids_of(group), self.channel_ids[np.concatenate(pairs)]).any())

    def step(self, group: ChannelGroup) -> int:
        """How many channels of a group can go at a time, where a kernel takes certain multiples only."""
        steps = (step for held, step in self.analysis.in_steps
                 if np.isin(self.ids_of(group), self.channel_ids[held]).any())  # fmt: skip
        return math.lcm(*steps)

    def removable_counts(self, group: ChannelGroup) -> range:
        """How many channels of a group can go together."""
        step = self.step(group)
        return range(step, group.size - self.least(group) + 1, step)


def coverage(module: nn.Module, channels: Channels) -> float:
    """The share of parameters that lie in a slice of a group that can be removed."""
    sizes = {name: parameter.shape for name, parameter in module.named_parameters()}
    stays = {name: [np.ones(length, bool) for length in size] for name, size in sizes.items()}
    for part in (part for group in channels.groups if group.prunable for part in group.slices):
        if part.parameter in stays:
            stays[part.parameter][part.dim][part.index.ravel()] = False
    kept = sum(math.prod(int(mask.sum()) for mask in masks) for masks in stays.values())
    total = sum(size.numel() for size in sizes.values())
    return 1 - kept / total if total else 0.0


def analyse(module: nn.Module, *graphs: Graph) -> Channels:
    """Walk the graphs once, apply each operator's rule, and gather what was tied in any of them into groups."""
    analysis = _walk(module, graphs, {})
    for _ in range(3):  # a view lays channels out over at most three dimensions that matter: (3, heads, width)
        if not analysis.refused_views:
            break
        view_layouts = {node: analysis.view_layouts.get(node, 0) + (node in analysis.refused_views)
                        for node in analysis.refused_views | set(analysis.view_layouts)}  # fmt: skip
        analysis = _walk(module, graphs, view_layouts)
    channel_ids = analysis.channel_ids()
    return Channels(graphs, analysis, channel_ids, tuple(_gather(analysis, channel_ids)))


def _walk(module: nn.Module, graphs: Iterable[Graph], view_layouts: dict[fx.Node, int]) -> Analysis:
    """Apply each operator's rule in the order of the graphs, with these choices of the views."""
    tensors = named_tensors(module)
    names = {placeholder: name for graph in graphs for placeholder, name in graph.stored.items()}
    analysis = Analysis(names=names, modules=dict(named_modules(module)), view_layouts=view_layouts)
    held: dict[str, Value] = {}
    for graph, node in ((one, node) for one in graphs for node in one.nodes):
        if node.name in graph.inputs or not analysis.computed.isdisjoint(node.all_input_nodes):
            analysis.computed.add(node)
        if node.op == "placeholder":
            name = graph.stored.get(node.name)
            if name is not None and tensors[name].dim() > 0:
                if name not in held:
                    is_buffer = not isinstance(tensors[name], nn.Parameter)
                    held[name] = analysis.add_parameter(name, tensors[name].shape, is_buffer)
                analysis.values[node] = held[name]
        elif node.op == "output":
            for result in node.all_input_nodes:
                analysis.freeze(axes_in(analysis.values.get(result)), "is an output of the model")
        elif node.op == "call_function":
            op = FlowOperator(node, analysis)
            rule = rules.flow_of(op.name)
            inputs = [axis for read in node.all_input_nodes for axis in axes_in(analysis.values.get(read))]
            if rule is not None and (inputs or holds_tensor(node)):
                try:
                    analysis.values[node] = rule(op)
                except NotLiteral:  # a number that the model computes, such as x.max().item()
                    op.freeze(inputs, f"an argument of {op.name} is computed")
            elif inputs:
                op.freeze(inputs, f"no rule for operator {op.name}")
    return analysis


def _reasons(analysis: Analysis, channel_ids: Index) -> tuple[Index, list[str]]:
    """The number of the first reason for which each channel stays, by its id, and the reasons; the first is none."""
    numbers = np.zeros(len(channel_ids), dtype=np.int64)
    known = {"": 0}
    for positions, reason in reversed(analysis.frozen):
        numbers[channel_ids[positions]] = known.setdefault(reason, len(known))
    return numbers, list(known)


def _gather(analysis: Analysis, channel_ids: Index) -> Iterable[ChannelGroup]:
    """Group the produced channels by the parameters that they touch, in the order of the model."""
    made = np.zeros(len(channel_ids), bool)
    for positions in analysis.produced:
        made[channel_ids[positions]] = True
    produced = np.flatnonzero(made)
    number = np.full(len(channel_ids), -1, dtype=np.int64)  # of each channel among the produced, by its id
    number[produced] = np.arange(len(produced))
    held = _parameter_places(analysis.dims, channel_ids, number)
    zeroing_slices = _zeroing_slices(analysis, channel_ids, number)
    numbers, reasons = _reasons(analysis, channel_ids)
    why = numbers[produced]
    kinds = _refine(why.copy(), [*held.values(), *zeroing_slices.values()])
    slices, silent = _slices(held, kinds), _slices(zeroing_slices, kinds)
    for kind, first in sorted(zip(*np.unique(kinds, return_index=True), strict=True), key=lambda pair: int(pair[1])):
        reason = reasons[why[first]]
        if not reason and kind not in silent:
            reason = "nothing reads these channels through a linear map, so that nothing silences them"
        own = tuple(slices[kind])
        yield ChannelGroup(_name(own), int((kinds == kind).sum()), own, tuple(silent.get(kind, ())), reason)


Places = dict[tuple[str, int], tuple[Index, Index]]
"""(parameter, dim) -> numbers of channels, ascending, and beside each an index along the dimension, ascending too."""


def _parameter_places(dims: dict[tuple[str, int], Index], channel_ids: Index, number: Index) -> Places:
    """Where the produced channels lie in each dimension of each parameter."""
    found: Places = {}
    numbers = number[channel_ids]  # of each position
    for slot, positions in dims.items():
        channels = numbers[positions]
        places = np.flatnonzero(channels >= 0)
        if len(places):
            there = channels[places]
            if (there[1:] < there[:-1]).any():
                order = np.argsort(there, kind="stable")
                there, places = there[order], places[order]
            found[slot] = there, places
    return found


def _zeroing_slices(analysis: Analysis, channel_ids: Index, number: Index) -> Places:
    """The slices of the sources that feed each channel's consumers."""
    seen: dict[tuple[str, int], list[Index]] = {}
    for consumer in analysis.consumers:
        channels = number[channel_ids[consumer.axis.positions]]
        for zero_source, rows in consumer.axis.sources:
            known = (channels >= 0) & (rows >= 0)
            if known.any():
                pairs = np.stack([channels[known], rows[known]])
                for part in zero_source.parts:
                    seen.setdefault(part, []).append(pairs)
    found: Places = {}
    for slot in sorted(seen):
        channels, rows = np.concatenate(seen[slot], axis=1) if len(seen[slot]) > 1 else seen[slot][0]
        if len(seen[slot]) > 1 or (channels[1:] <= channels[:-1]).any():
            width = rows.max() + 1
            both = np.unique(channels * width + rows)
            channels, rows = both // width, both % width
        found[slot] = channels, rows
    return found


def _refine(kinds: Index, places: Iterable[tuple[Index, Index]]) -> Index:
    """Channels are of one kind where they were before and have as many positions in every place."""
    following = int(kinds.max(initial=0)) + 1
    for channels in {channels.tobytes(): channels for channels, _ in places}.values():
        touched, counts = _counted(channels)
        keys = kinds[touched] * (counts.max() + 1) + counts
        if (keys == keys[0]).all():
            kinds[touched], following = following, following + 1
        else:
            of_keys, found = np.unique(keys, return_inverse=True)
            kinds[touched], following = following + found.reshape(-1), following + len(of_keys)
    return kinds


def _counted(channels: Index) -> tuple[Index, Index]:
    """The numbers among numbers that ascend, and how often each is there."""
    begins = channels[1:] != channels[:-1]
    if begins.all():
        return channels, np.ones(len(channels), dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], begins]))
    return channels[starts], np.diff(starts, append=len(channels))


def _slices(places: Places, kinds: Index) -> dict[int, list[Slice]]:
    """For each kind of channel its slices."""
    found: dict[int, list[Slice]] = {}
    alike: dict[bytes, list[tuple[int, slice | Mask, int]]] = {}  # the same channels lie in many slots
    for (parameter, dim), (channels, positions) in places.items():
        key = channels.tobytes()
        if key not in alike:
            alike[key] = list(_split_by_kind(channels, kinds))
        for kind, members, count in alike[key]:
            found.setdefault(kind, []).append(Slice(parameter, dim, positions[members].reshape(count, -1)))
    return found


def _split_by_kind(channels: Index, kinds: Index) -> Iterable[tuple[int, slice | Mask, int]]:
    """The kinds of channels in a slot, where each of them lies in it, and how many channels that are."""
    there = kinds[channels]
    one = bool((there == there[0]).all())
    for kind in [int(there[0])] if one else np.unique(there).tolist():
        members = slice(None) if one else there == kind
        yield kind, members, np.count_nonzero(np.diff(channels[members])) + 1


def _name(slices: tuple[Slice, ...]) -> str:
    """The module whose filters the channels are: the first weight with them as rows."""
    rows = [part.parameter for part in slices if part.dim == 0]
    return (rows[0].rpartition(".")[0] or rows[0]) if rows else "?"
