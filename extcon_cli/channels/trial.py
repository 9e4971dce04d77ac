"""Find out by running: silence half of every group on a copy, remove it, compare. What fails is frozen.

Sizes that stand in the model's code (`x.view(-1, 320)`) are seen by no analysis; they show here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from extcon_cli.channels.apply import remove, silence
from extcon_cli.channels.groups import ChannelGroup, Channels, analyse
from extcon_cli.channels.judge import judge, plan
from extcon_cli.channels.trace import trace
from extcon_cli.channels.verify import Inputs, batch_size, difference, random_batches, runs

TOLERANCE = 1e-4  # of the largest output: far over rounding, far under any mistake


def channel_groups(module: nn.Module, example: Inputs) -> Channels:
    """The channel groups of a module, each tried out: what is prunable here has been removed once from a copy.

    Raises:
        TraceError: the forward pass cannot be traced.
    """
    return settle(module, analyse(module, trace(module, example)), example)


def settle(module: nn.Module, channels: Channels, example: Inputs, seed: int = 0) -> Channels:
    """Freeze the groups whose removal does not work out on this module, with the reason."""
    generator = np.random.default_rng(seed)
    halves = {
        id(group): np.sort(generator.permutation(group.size)[: group.size // 2])
        for group in channels.groups
        if group.prunable and group.size > 1
    }
    reasons = _stuck(module, channels, halves)
    sound = [group for group in channels.groups if id(group) in halves and id(group) not in reasons]
    reasons |= _failures(module, channels, sound, halves, example)
    alone = [group for group in sound if id(group) not in reasons]
    if len(alone) < len(sound) and (failure := _failure(module, channels, alone, halves, example)) is not None:
        reasons |= {id(group): failure for group in alone}  # each goes by itself, not together
    frozen = tuple(
        replace(group, reason=reasons.get(id(group), group.reason)) if group.size > 1 or group.reason
        else replace(group, reason="a single channel")
        for group in channels.groups
    )  # fmt: skip
    return replace(channels, groups=frozen)


def _stuck(module: nn.Module, channels: Channels, halves: dict[int, Any]) -> dict[int, str]:
    """Groups whose silenced channels cannot go: they emit a constant that nothing can take over."""
    copied = copy.deepcopy(module)
    for group in channels.groups:
        if id(group) in halves:
            silence(copied, group, halves[id(group)])
    reasons = {}
    for verdict in judge(copied, channels):
        half = halves.get(id(verdict.group))
        if half is not None and (~verdict.removable[half]).sum() > (verdict.carrier >= 0):
            dead = bool(verdict.dead[half].all())
            reasons[id(verdict.group)] = (
                "a silenced channel emits a constant that is read through zero padding"
                if dead
                else "a silenced channel does not become constant for all that read it"
            )
    return reasons


def _failures(
    module: nn.Module,
    channels: Channels,
    groups: Sequence[ChannelGroup],
    halves: dict[int, Any],
    example: Inputs,
) -> dict[int, str]:
    """The groups that cannot be removed, and why, by halving the suspects."""
    failure = _failure(module, channels, groups, halves, example) if groups else None
    if failure is None:
        return {}
    if len(groups) == 1:
        return {id(groups[0]): failure}
    middle = len(groups) // 2
    return {
        key: reason
        for part in (groups[:middle], groups[middle:])
        for key, reason in _failures(module, channels, part, halves, example).items()
    }


def _failure(
    module: nn.Module,
    channels: Channels,
    groups: Sequence[ChannelGroup],
    halves: dict[int, Any],
    example: Inputs,
) -> str | None:
    """Why removing these groups' halves fails on a copy, None where the outputs stay."""
    zeroed = copy.deepcopy(module)
    for group in groups:
        silence(zeroed, group, halves[id(group)])
    shrunk = copy.deepcopy(zeroed)
    tried = {group.name for group in groups}
    only = replace(channels, groups=tuple(g if g.name in tried else replace(g, reason="-") for g in channels.groups))
    try:
        remove(shrunk, plan(shrunk, only))
        measured = difference(zeroed, shrunk, random_batches(example, sizes=(batch_size(example),)))
    except Exception as error:  # whatever the model's own code raises on other sizes
        said = str(error).strip().partition("\n")[0][:160] or repr(error)
        return f"the forward pass fails on the smaller width: {said}"
    if runs(zeroed, example, training=True) and not runs(shrunk, example, training=True):
        return "the forward pass fails on the smaller width in training mode"
    if measured.relative > TOLERANCE:
        return f"removal changes the outputs by {measured.relative:.1e}: the forward pass depends on the width"
    return None
