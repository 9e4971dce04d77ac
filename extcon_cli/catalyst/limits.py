"""How many channels of a group may go: floors, rounded widths, groups that stay, own shares. Scores nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from extcon_cli.channels import ChannelGroup

Stops = NDArray[np.int64]
"""Numbers of channels that may go from a group, rising; the first goes in any case."""


@dataclass(frozen=True)
class LayerRule:
    """What holds for the groups whose names match a pattern."""

    match: str
    keep: bool = False  # nothing goes
    ratio: float | None = None  # exactly this share goes, whatever the channels are worth
    floor: float | None = None  # share that stays at least, in the place of the general one
    least: int = 1  # channels that stay at least


@dataclass(frozen=True)
class Limits:
    """What a decision has to respect. The first rule that matches a group's name holds for it."""

    floor: float = 0.1  # share of each group that stays at least
    keep: Sequence[str] = ()  # name patterns of groups that are not touched
    layers: Sequence[LayerRule] = ()
    round_to: int = 1  # widths that change become multiples of this

    @property
    def none(self) -> Limits:
        """As little as there can be: one channel stays."""
        return Limits(floor=0.0)

    def rule(self, group: ChannelGroup) -> LayerRule:
        """The rule of a group; one that says nothing where none matches."""
        if any(fnmatchcase(group.name, pattern) for pattern in self.keep):
            return LayerRule(group.name, keep=True)
        return next((rule for rule in self.layers if fnmatchcase(group.name, rule.match)), LayerRule(group.name))

    def stops(self, group: ChannelGroup) -> Stops:
        """What a decision may take from a group."""
        rule, size = self.rule(group), group.size
        if rule.keep:
            return np.zeros(1, np.int64)
        floor = self.floor if rule.floor is None else rule.floor
        kept = np.arange(size, min(size, max(1, rule.least, math.ceil(floor * size))) - 1, -1)
        if rule.ratio is not None:
            kept = np.arange(size, 0, -1)
        kept = kept[(kept % self.round_to == 0) | (kept == size)]
        if rule.ratio is not None:
            kept = kept[np.abs(size - kept - rule.ratio * size).argmin(keepdims=True)]
        return size - kept
