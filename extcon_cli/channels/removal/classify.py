"""Which channels are dead, and which of them can go exactly. Reads the module and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from extcon_cli.channels.analysis.axes import Consumer, Index, Mask
from extcon_cli.channels.analysis.constants import ConsumerInput, consumer_inputs
from extcon_cli.channels.analysis.groups import ChannelGroup, Channels
from extcon_cli.channels.analysis.operator import Operator
from extcon_cli.channels.modules import named_tensors

BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # can be given a bias where they have none


@dataclass(frozen=True)
class GroupStatus:
    """What is true of each channel of a group: dead (a known constant for every reader), and removable.

    `carrier` is a dead channel that stays, and takes the constants of the others that cannot be folded; -1: none.
    """

    group: ChannelGroup
    dead: Mask  # (channels,)
    removable: Mask  # (channels,)
    carrier: int = -1


def classify(module: nn.Module, channels: Channels, inputs: Sequence[ConsumerInput] | None = None) -> list[GroupStatus]:
    """Which channels emit constants only, and which of them can go exactly with the weights as they are.

    A constant other than zero can be folded where it is read by a map without zero padding that has a bias or can
    get one; elsewhere, one dead channel of the group carries those of the others. At least one channel stays, two
    where a dimension of length one would be squeezed away, and as many more as a kernel asks for.
    """
    inputs = consumer_inputs(module, channels) if inputs is None else inputs
    alive, carried, stays, seen = (np.zeros(len(channels.channel_ids), bool) for _ in range(4))
    times_read, unfolded = count_readers(channels), []
    for read in inputs:
        alive[read.channel_ids[np.isnan(read.constants)]] = True
        seen[read.channel_ids] = True
        if not can_fold(module, read.consumer, times_read):
            constant = read.channel_ids[~np.isnan(read.constants) & (read.constants != 0)]
            (carried if _can_merge(read.consumer, times_read) else stays)[constant] = True
            if len(constant):
                unfolded.append(read)
    statuses = []
    tensors = named_tensors(module)
    whole = _whole(tensors)
    for group in channels.groups:
        members = channels.ids_of(group)
        dead = seen[members] & ~alive[members] & _finite(tensors, whole, group)
        free = dead & ~stays[members] & group.prunable
        removable, carrier = free & ~carried[members], -1
        if (free & carried[members]).sum() > 1:
            carrier = _carrier(members, free, unfolded)
            if carrier >= 0:
                removable = free.copy()
                removable[carrier] = False
        missing = max(0, channels.least(group) - int((~removable).sum()))
        missing += (int(removable.sum()) - missing) % channels.step(group)
        removable[np.flatnonzero(removable)[:missing]] = False
        statuses.append(GroupStatus(group, dead, removable, carrier))
    return statuses


def holding_back(statuses: Sequence[GroupStatus], stays: Callable[[ChannelGroup], bool]) -> list[GroupStatus]:
    """The statuses with nothing to be removed of the groups that stay."""
    none = [replace(status, removable=np.zeros_like(status.removable), carrier=-1) for status in statuses]
    return [held if stays(status.group) else status for status, held in zip(statuses, none, strict=True)]


def _carrier(members: Index, free: Mask, unfolded: Sequence[ConsumerInput]) -> int:
    """The dead channel whose constants are farthest from zero wherever others' cannot be folded; -1: none will do."""
    strength = np.where(free, np.inf, 0.0)
    for read in unfolded:
        places = [np.flatnonzero(read.channel_ids == member) for member in members]
        width = len(read.channel_ids) // read.consumer.groups
        blocks = {tuple(place // width) for place in places}
        if len(blocks) > 1:  # the channels are not read alike
            return -1
        if any(read.constants[place].any() for place, goes in zip(places, free, strict=True) if goes):
            least = [np.abs(read.constants[place]).min(initial=np.inf) for place in places]
            strength = np.minimum(strength, np.nan_to_num(least, nan=0.0, posinf=np.inf))
    best = int(strength.argmax())
    return best if 0 < strength[best] < np.inf else -1


def can_fold(module: nn.Module, consumer: Consumer, times_read: Mapping[str, int]) -> bool:
    """Whether a constant read by this map can move into its bias."""
    if consumer.padded or not _can_merge(consumer, times_read):
        return False
    if consumer.bias is not None:
        return times_read[consumer.bias] == 1
    path, _, name = consumer.weight.rpartition(".")
    owner = module.get_submodule(path)
    return (
        name == "weight"
        and Operator(consumer.node).value("bias") is None
        and Operator(consumer.node).module == path  # not functionally, with the weight of a module that has a bias
        and any(isinstance(owner, kind) and type(owner).forward is kind.forward for kind in BIASED)
    )


def _can_merge(consumer: Consumer, times_read: Mapping[str, int]) -> bool:
    """Whether a constant read by this map can be read from another constant channel instead."""
    return not consumer.zeros_only and times_read[consumer.weight] == 1


def _whole(tensors: Mapping[str, Tensor]) -> set[str]:
    """The tensors that hold numbers only."""

    def is_whole(held: Tensor) -> bool:
        if not (held.is_floating_point() or held.is_complex()):
            return True
        return bool(held.sum().isfinite()) or bool(held.isfinite().all())  # a finite sum has finite terms

    return {name for name, tensor in tensors.items() if is_whole(tensor.detach())}


def _finite(tensors: Mapping[str, Tensor], whole: set[str], group: ChannelGroup) -> Mask:
    """Which channels hold numbers only: zero times NaN is NaN. (channels,)"""
    finite = np.ones(group.size, bool)
    for part in group.slices:
        if part.parameter not in whole:
            tensor = tensors[part.parameter].detach()
            held = tensor.isfinite().movedim(part.dim, 0).reshape(tensor.shape[part.dim], -1).all(1).cpu().numpy()
            finite &= held[part.index].all(1)
    return finite


def count_readers(channels: Channels) -> Mapping[str, int]:
    """How many operators read each parameter, in one forward pass."""
    most: Counter[str] = Counter()
    for graph in channels.graphs:
        found: Counter[str] = Counter()
        for node in graph.nodes:
            if node.name in graph.stored:
                found[graph.stored[node.name]] += len(node.users)
        most |= found
    return most
