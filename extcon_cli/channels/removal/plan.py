"""The plan of a removal: which slices go, where their constants move, which sizes change. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from extcon_cli.channels.analysis.axes import Index, Mask
from extcon_cli.channels.analysis.constants import ConsumerInput, consumer_inputs
from extcon_cli.channels.analysis.groups import Channels
from extcon_cli.channels.analysis.operator import Operator
from extcon_cli.channels.attributes import COUNTS, WIDTHS
from extcon_cli.channels.removal.classify import GroupStatus, can_fold, classify, count_readers
from extcon_cli.channels.removal.rewrites import Cut, Fold, Merge, RemovalPlan, Renorm, Resize


def plan_removal(
    module: nn.Module,
    channels: Channels,
    inputs: Sequence[ConsumerInput] | None = None,
    statuses: Sequence[GroupStatus] | None = None,
) -> RemovalPlan:
    """Remove every channel that can go exactly with the weights as they are now, or those that `statuses` name."""
    inputs = consumer_inputs(module, channels) if inputs is None else inputs
    times_read = count_readers(channels)
    gone = np.zeros(len(channels.channel_ids), bool)
    carrier = np.full(len(channels.channel_ids), -1, dtype=np.int64)  # of each removed channel that needs one
    cut: dict[tuple[str, int], list[Index]] = {}
    for status in classify(module, channels, inputs) if statuses is None else statuses:
        members = channels.ids_of(status.group)
        gone[members[status.removable]] = True
        if status.carrier >= 0:
            carrier[members[status.removable]] = members[status.carrier]
        for part in status.group.slices if status.removable.any() else ():
            cut.setdefault((part.parameter, part.dim), []).append(part.index[status.removable].ravel())
    sizes = {slot: len(positions) for slot, positions in channels.analysis.dims.items()}
    folds, merges = [], []
    for read in inputs:
        consumer, moved = read.consumer, np.flatnonzero(gone[read.channel_ids] & (read.constants != 0))
        if not len(moved):
            continue
        if not can_fold(module, consumer, times_read):
            merges.append(_merge(read, moved, carrier))
            continue
        bias = consumer.bias or _bias_name(consumer.weight)
        if consumer.bias is None:  # it is made with a row for each of the weight's, and cut like them
            written = 1 - consumer.dim
            sizes[bias, 0] = sizes[consumer.weight, written]
            cut[bias, 0] = cut.get((consumer.weight, written), [])
        constants = tuple(read.constants[moved].tolist())
        folds.append(Fold(consumer.weight, bias, consumer.groups, tuple(moved.tolist()), constants, consumer.dim))
    ranges: dict[tuple[int, bytes], tuple[tuple[int, int], ...]] = {}  # one object for all cuts of a group alike
    cuts = []
    for (parameter, dim), removed in sorted(cut.items()):
        if removed:
            size = sizes[parameter, dim]
            same = size, b"".join(some.tobytes() for some in removed)
            if same not in ranges:
                ranges[same] = _ranges(removed, size)
            cuts.append(Cut(parameter, dim, size, ranges[same]))
    resized, norms = _resized(module, channels, gone), _norms(module, channels, gone)
    return RemovalPlan(tuple(cuts), tuple(folds), resized, tuple(merges), norms)


def _merge(read: ConsumerInput, moved: Index, carrier: Index) -> Merge:
    """Each removed channel's place beside its carrier's: the i-th place of the one goes to the i-th of the other."""
    consumer, channel_ids, into = read.consumer, read.channel_ids, []
    for place in moved:
        nth = int((np.flatnonzero(channel_ids == channel_ids[place]) < place).sum())
        into.append(int(np.flatnonzero(channel_ids == carrier[channel_ids[place]])[nth]))
    gains = tuple((read.constants[moved] / read.constants[into]).tolist())
    return Merge(consumer.weight, consumer.groups, tuple(moved.tolist()), tuple(into), gains, consumer.dim)


def _resized(module: nn.Module, channels: Channels, gone: Mask) -> tuple[Resize, ...]:
    """The attributes of modules by which views lay out what is removed: how many heads, or how wide together."""
    found: dict[tuple[str, str], Resize] = {}
    for view in channels.analysis.sized_views:
        channel_ids = channels.ids_along(view.axis)
        size, kept, path = len(channel_ids), int((~gone[channel_ids]).sum()), Operator(view.node).module
        if kept == size:
            continue
        held = vars(module.get_submodule(path))
        values = [(name, held[name]) for name in (*COUNTS, *WIDTHS) if type(held.get(name)) is int]
        widths = (size, len(np.unique(channel_ids))) if values else ()
        for name, value in values:
            if (name in WIDTHS or value in widths) and value * kept % size == 0:
                found.setdefault((path, name), Resize(path, name, value, value * kept // size))
    return tuple(found.values())


def _norms(module: nn.Module, channels: Channels, gone: Mask) -> tuple[Renorm, ...]:
    """The norms in modules' own code, whose mean has fewer channels to run over."""
    found: dict[str, Renorm] = {}
    for norm in channels.analysis.inline_norms:
        before, kept = len(norm.axis.positions), int((~gone[channels.ids_along(norm.axis)]).sum())
        if kept < before:
            eps = float(vars(module.get_submodule(norm.weight.rpartition(".")[0]))[norm.eps])
            found[norm.weight] = Renorm(norm.weight, norm.offset, norm.eps, eps, before, kept)
    return tuple(found.values())


def _bias_name(weight: str) -> str:
    return f"{weight.rpartition('.')[0]}.bias".removeprefix(".")


def _ranges(positions: Iterable[Index], size: int) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of positions along a dimension."""
    there = np.zeros(size + 2, bool)
    for some in positions:
        there[some + 1] = True
    edges = np.flatnonzero(there[1:] != there[:-1]).tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))
