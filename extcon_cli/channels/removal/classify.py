"""Which channels are dead, and which of them can go exactly. Reads the module and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from extcon_cli.channels.analysis.axes import Consumer, Index
from extcon_cli.channels.analysis.constants import read_constants
from extcon_cli.channels.analysis.groups import ChannelGroup, Channels
from extcon_cli.channels.analysis.trace import argument, called_by
from extcon_cli.channels.modules import named_tensors

BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # can be given a bias where they have none


@dataclass(frozen=True)
class GroupStatus:
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
    """What every linear map reads: the work that `classify` and `plan` share."""
    return [
        (consumer, channels.roots[consumer.axis.atoms], constants.numpy())
        for consumer, constants in read_constants(module, channels)
    ]


def classify(module: nn.Module, channels: Channels, readings: Readings | None = None) -> list[GroupStatus]:
    """Which channels emit constants only, and which of them can go exactly with the weights as they are.

    A constant other than zero can be folded where it is read by a map without zero padding that has a bias or can
    get one; elsewhere, one dead channel of the group carries those of the others. At least one channel stays.
    """
    readings = read(module, channels) if readings is None else readings
    alive, carried, stays, seen = (np.zeros(len(channels.roots), bool) for _ in range(4))
    reading, unfolded = readers(channels), Readings()
    for consumer, roots, values in readings:
        alive[roots[np.isnan(values)]] = True
        seen[roots] = True
        if not foldable(module, consumer, reading):
            held = roots[~np.isnan(values) & (values != 0)]
            (carried if _mergeable(consumer, reading) else stays)[held] = True
            if len(held):
                unfolded.append((consumer, roots, values))
    statuses = []
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
        statuses.append(GroupStatus(group, dead, removable, carrier))
    return statuses


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


def foldable(module: nn.Module, consumer: Consumer, readers: Mapping[str, int]) -> bool:
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


def readers(channels: Channels) -> Mapping[str, int]:
    """How many operators read each parameter."""
    found: Counter[str] = Counter()
    for node in channels.graph.nodes:
        if node.name in channels.graph.stored:
            found[channels.graph.stored[node.name]] += len(node.users)
    return found
