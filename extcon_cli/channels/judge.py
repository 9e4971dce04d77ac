"""Which channels are dead, which of them can go exactly, and the plan of it. Reads the module and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from extcon_cli.channels.axes import Consumer, Index
from extcon_cli.channels.constants import read_constants
from extcon_cli.channels.groups import ChannelGroup, Channels
from extcon_cli.channels.plan import COUNTS, WIDTHS, Cut, Fold, Merge, RemovalPlan, Renorm, Resize
from extcon_cli.channels.trace import argument, called_by, named_tensors

BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # can be given a bias where they have none


@dataclass(frozen=True)
class Verdict:
    """What is true of each channel of a group: dead (a known constant for every reader), and removable.

    `carrier` is a dead channel that stays, and takes the constants of the others that cannot be folded; -1: none.
    """

    group: ChannelGroup
    dead: np.ndarray[Any, np.dtype[np.bool_]]  # (channels,)
    removable: np.ndarray[Any, np.dtype[np.bool_]]  # (channels,)
    carrier: int = -1


Readings = list[tuple[Consumer, Index, np.ndarray[Any, Any]]]
"""A map, the channels that it reads, and their constants with the weights as they are; NaN where they are none."""


def read(module: nn.Module, channels: Channels) -> Readings:
    """What every linear map reads: the work that `judge` and `plan` share."""
    return [
        (consumer, channels.roots[consumer.axis.atoms], constants.numpy())
        for consumer, constants in read_constants(module, channels)
    ]


def judge(module: nn.Module, channels: Channels, readings: Readings | None = None) -> list[Verdict]:
    """Which channels emit constants only, and which of them can go exactly with the weights as they are.

    A constant other than zero can be folded where it is read by a map without zero padding that has a bias or can
    get one; elsewhere, one dead channel of the group carries those of the others. At least one channel stays.
    """
    readings = read(module, channels) if readings is None else readings
    alive, carried, stays, seen = (np.zeros(len(channels.roots), bool) for _ in range(4))
    readers, unfolded = _readers(channels), Readings()
    for consumer, roots, values in readings:
        alive[roots[np.isnan(values)]] = True
        seen[roots] = True
        if not _foldable(module, consumer, readers):
            held = roots[~np.isnan(values) & (values != 0)]
            (carried if _mergeable(consumer, readers) else stays)[held] = True
            if len(held):
                unfolded.append((consumer, roots, values))
    verdicts = []
    tensors = named_tensors(module)
    whole = _whole(tensors)
    for group in channels.groups:
        members = channels.ids(group)
        dead = seen[members] & ~alive[members] & _finite(tensors, whole, group)
        free = dead & ~stays[members] & group.prunable
        removable, carrier = free & ~carried[members], -1
        if (free & carried[members]).sum() > 1:
            carrier = _carrier(members, free, unfolded)
            if carrier >= 0:
                removable = free.copy()
                removable[carrier] = False
        if removable.all() and len(removable):
            removable[0] = False
        verdicts.append(Verdict(group, dead, removable, carrier))
    return verdicts


def _carrier(members: Index, free: np.ndarray[Any, np.dtype[np.bool_]], unfolded: Readings) -> int:
    """The dead channel whose constants are farthest from zero wherever others' cannot be folded; -1: none will do."""
    strength = np.where(free, np.inf, 0.0)
    for consumer, roots, values in unfolded:
        places = [np.flatnonzero(roots == member) for member in members]
        width = len(roots) // consumer.groups
        blocks = {tuple(place // width) for place in places}
        if len(blocks) > 1:  # the channels are not read alike
            return -1
        if any(values[place].any() for place, goes in zip(places, free, strict=True) if goes):
            least = [np.abs(values[place]).min(initial=np.inf) for place in places]
            strength = np.minimum(strength, np.nan_to_num(least, nan=0.0, posinf=np.inf))
    best = int(strength.argmax())
    return best if 0 < strength[best] < np.inf else -1


def plan(
    module: nn.Module,
    channels: Channels,
    readings: Readings | None = None,
    verdicts: Sequence[Verdict] | None = None,
) -> RemovalPlan:
    """Remove every channel that can go exactly with the weights as they are now, or those that `verdicts` name."""
    readings, readers = read(module, channels) if readings is None else readings, _readers(channels)
    gone = np.zeros(len(channels.roots), bool)
    carrier = np.full(len(channels.roots), -1, dtype=np.int64)  # of each removed channel that needs one
    cut: dict[tuple[str, int], list[int]] = {}
    for verdict in judge(module, channels, readings) if verdicts is None else verdicts:
        members = channels.ids(verdict.group)
        gone[members[verdict.removable]] = True
        if verdict.carrier >= 0:
            carrier[members[verdict.removable]] = members[verdict.carrier]
        for part in verdict.group.slices:
            cut.setdefault((part.parameter, part.dim), []).extend(part.index[verdict.removable].ravel().tolist())
    sizes = {slot: len(atoms) for slot, atoms in channels.analysis.dims.items()}
    folds, merges = [], []
    for consumer, roots, values in readings:
        moved = np.flatnonzero(gone[roots] & (values != 0))
        if not len(moved):
            continue
        if not _foldable(module, consumer, readers):
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


def _foldable(module: nn.Module, consumer: Consumer, readers: Mapping[str, int]) -> bool:
    """Whether a constant read by this map can move into its bias."""
    if consumer.padded or not _mergeable(consumer, readers):
        return False
    if consumer.bias is not None:
        return readers[consumer.bias] == 1
    path, _, name = consumer.weight.rpartition(".")
    owner = module.get_submodule(path)
    return (
        name == "weight"
        and argument(consumer.node, "bias") is None
        and called_by(consumer.node) == path  # not functionally, with the weight of a module that has a bias
        and any(isinstance(owner, kind) and type(owner).forward is kind.forward for kind in BIASED)
    )


def _mergeable(consumer: Consumer, readers: Mapping[str, int]) -> bool:
    """Whether a constant read by this map can be read from another constant channel instead."""
    return not consumer.counted and readers[consumer.weight] == 1


def _whole(tensors: Mapping[str, Tensor]) -> set[str]:
    """The tensors that hold numbers only."""
    found = {name: tensor.detach() for name, tensor in tensors.items()}
    return {  # a finite sum has finite terms, and is quicker
        name for name, held in found.items() if bool(held.sum().isfinite()) or bool(held.isfinite().all())
    }


def _finite(tensors: Mapping[str, Tensor], whole: set[str], group: ChannelGroup) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which channels hold numbers only: zero times NaN is NaN. (channels,)"""
    finite = np.ones(group.size, bool)
    for part in group.slices:
        if part.parameter not in whole:
            tensor = tensors[part.parameter].detach()
            held = tensor.isfinite().movedim(part.dim, 0).reshape(tensor.shape[part.dim], -1).all(1).cpu().numpy()
            finite &= held[part.index].all(1)
    return finite


def _readers(channels: Channels) -> Mapping[str, int]:
    """How many operators read each parameter."""
    found: Counter[str] = Counter()
    for node in channels.graph.nodes:
        if node.name in channels.graph.stored:
            found[channels.graph.stored[node.name]] += len(node.users)
    return found


def _bias_name(weight: str) -> str:
    return f"{weight.rpartition('.')[0]}.bias".removeprefix(".")


def _ranges(positions: Iterable[int]) -> tuple[tuple[int, int], ...]:
    ordered = np.unique(np.fromiter(positions, dtype=np.int64))
    ends = np.flatnonzero(np.diff(ordered, append=ordered[-1] + 2) != 1)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return tuple(zip(ordered[starts].tolist(), (ordered[ends] + 1).tolist(), strict=True))
