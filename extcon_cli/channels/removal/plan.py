"""The plan of a removal: which slices go, where their constants move, which sizes change. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from extcon_cli.channels.analysis.axes import Consumer, Index
from extcon_cli.channels.analysis.groups import Channels
from extcon_cli.channels.analysis.trace import called_by
from extcon_cli.channels.removal.classify import GroupStatus, Readings, classify, foldable, read, readers
from extcon_cli.channels.removal.rewrites import COUNTS, WIDTHS, Cut, Fold, Merge, RemovalPlan, Renorm, Resize


def plan_removal(
    module: nn.Module,
    channels: Channels,
    readings: Readings | None = None,
    statuses: Sequence[GroupStatus] | None = None,
) -> RemovalPlan:
    """Remove every channel that can go exactly with the weights as they are now, or those that `statuses` name."""
    readings, reading = read(module, channels) if readings is None else readings, readers(channels)
    gone = np.zeros(len(channels.roots), bool)
    carrier = np.full(len(channels.roots), -1, dtype=np.int64)  # of each removed channel that needs one
    cut: dict[tuple[str, int], list[int]] = {}
    for status in classify(module, channels, readings) if statuses is None else statuses:
        members = channels.ids(status.group)
        gone[members[status.removable]] = True
        if status.carrier >= 0:
            carrier[members[status.removable]] = members[status.carrier]
        for part in status.group.slices:
            cut.setdefault((part.parameter, part.dim), []).extend(part.index[status.removable].ravel().tolist())
    sizes = {slot: len(atoms) for slot, atoms in channels.analysis.dims.items()}
    folds, merges = [], []
    for consumer, roots, values in readings:
        moved = np.flatnonzero(gone[roots] & (values != 0))
        if not len(moved):
            continue
        if not foldable(module, consumer, reading):
            merges.append(_merged(consumer, roots, values, moved, carrier))
            continue
        bias = consumer.bias or _bias_name(consumer.weight)
        if consumer.bias is None:  # it is made with a row for each of the weight's, and cut like them
            written = 1 - consumer.dim
            sizes[bias, 0] = sizes[consumer.weight, written]
            cut[bias, 0] = cut.get((consumer.weight, written), [])
        constants = tuple(values[moved].tolist())
        folds.append(Fold(consumer.weight, bias, consumer.groups, tuple(moved.tolist()), constants, consumer.dim))
    cuts = tuple(
        Cut(parameter, dim, sizes[parameter, dim], _ranges(removed))
        for (parameter, dim), removed in sorted(cut.items())
        if removed
    )
    sizes_told, norms = _sizes(module, channels, gone), _norms(module, channels, gone)
    return RemovalPlan(cuts, tuple(folds), sizes_told, tuple(merges), norms)


def _merged(consumer: Consumer, roots: Index, values: np.ndarray[Any, Any], moved: Index, carrier: Index) -> Merge:
    """Each removed channel's place beside its carrier's: the i-th place of the one goes to the i-th of the other."""
    into = []
    for place in moved:
        nth = int((np.flatnonzero(roots == roots[place]) < place).sum())
        into.append(int(np.flatnonzero(roots == carrier[roots[place]])[nth]))
    gains = tuple((values[moved] / values[into]).tolist())
    return Merge(consumer.weight, consumer.groups, tuple(moved.tolist()), tuple(into), gains, consumer.dim)


def _sizes(module: nn.Module, channels: Channels, gone: np.ndarray[Any, Any]) -> tuple[Resize, ...]:
    """The attributes of modules by which views lay out what is removed: how many heads, or how wide together."""
    found: dict[tuple[str, str], Resize] = {}
    for split in channels.analysis.splits:
        roots = channels.roots[split.axis.atoms]
        positions, kept, path = len(roots), int((~gone[roots]).sum()), called_by(split.node)
        if kept == positions:
            continue
        held = vars(module.get_submodule(path))
        for name in (*COUNTS, *WIDTHS):
            value = held.get(name)
            counted = name in WIDTHS or value in (positions, len(np.unique(roots)))
            if type(value) is int and counted and value * kept % positions == 0:
                found.setdefault((path, name), Resize(path, name, value, value * kept // positions))
    return tuple(found.values())


def _norms(module: nn.Module, channels: Channels, gone: np.ndarray[Any, Any]) -> tuple[Renorm, ...]:
    """The norms in modules' own code, whose mean has fewer channels to run over."""
    found = []
    for norm in channels.analysis.norms:
        before, kept = len(norm.axis.atoms), int((~gone[channels.roots[norm.axis.atoms]]).sum())
        if kept < before:
            eps = float(vars(module.get_submodule(norm.weight.rpartition(".")[0]))[norm.eps])
            found.append(Renorm(norm.weight, norm.offset, norm.eps, eps, before, kept))
    return tuple(found)


def _bias_name(weight: str) -> str:
    return f"{weight.rpartition('.')[0]}.bias".removeprefix(".")


def _ranges(positions: Iterable[int]) -> tuple[tuple[int, int], ...]:
    ordered = np.unique(np.fromiter(positions, dtype=np.int64))
    ends = np.flatnonzero(np.diff(ordered, append=ordered[-1] + 2) != 1)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return tuple(zip(ordered[starts].tolist(), (ordered[ends] + 1).tolist(), strict=True))
