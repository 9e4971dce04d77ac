"""Which channel groups a configuration has a number for, and the configuration of a shrunk model.

A configuration says one number for all layers (intermediate_size, num_attention_heads, hidden_size): the groups that it
sizes form a *role* and keep the same share of their channels. A role counts once a trial removal has shown that a plain
model of the changed configuration computes the same, operator by operator. Chooses no channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import gcd
from typing import Any

import numpy as np
from torch import nn

from extcon_cli.channels import (
    ChannelGroup,
    Channels,
    GroupStatus,
    RemovalPlan,
    differences_between,
    plan_removal,
    remove,
)
from extcon_cli.channels.compare import EXACT, Examples, difference, each_example, random_batches
from extcon_cli.channels.preserving import duplicate
from extcon_cli.checkpoint.huggingface.config import Field, Values, changed, epsilons, fields, filled, shapes_of
from extcon_cli.errors import GateError

MOST_TRIED = 64
"""Widths of one role that are tried where not every one is allowed (hidden_size in steps of the heads)."""
NO_NUMBER = "its configuration has no number for this width alone (prune.widths: free removes it)"


@dataclass(frozen=True)
class Role:
    """Channel groups that keep the same share of their channels, since the same fields size them."""

    fields: tuple[Field, ...]
    groups: tuple[ChannelGroup, ...]
    steps: int
    """Equal parts of which each group consists; whole parts go."""
    allowed: tuple[int, ...]
    """How many parts may go."""

    @property
    def name(self) -> str:
        return " and ".join(field.name for field in self.fields)

    def values(self, gone: int) -> dict[tuple[str, ...], int]:
        """The fields' values where so many parts are gone."""
        left = self.steps - gone
        return {
            field.place: (self.groups[0].size if field.value is None else field.value) * left // self.steps
            for field in self.fields
        }


def roles(module: nn.Module, channels: Channels, examples: Examples) -> tuple[Role, ...]:
    """The roles of a model of transformers, each tried out; a group is in one role at the most.

    Args:
        module: in float32 or float64.
        channels: of the module, by these examples; groups that cannot go size nothing.
    """
    config, kind = module.config, type(module)
    now, known = shapes_of(kind, config), fields(kind, config)
    first_names = _first_names(module)
    held = {id(group): {(first_names.get(part.parameter, part.parameter), part.dim) for part in group.slices
                        if part.parameter in now} for group in channels.groups}  # fmt: skip
    found: list[Role] = []
    taken: set[int] = set()
    for chosen in (some for count in (1, 2, 3) for some in combinations(known, count)):
        dims = {(first_names[name], dim) for field in chosen for name, dim in field.dims}
        groups = tuple(group for group in channels.groups if held[id(group)] & dims)
        free = all(group.prunable and id(group) not in taken for group in groups)
        if not groups or not free or set().union(*(held[id(group)] for group in groups)) != dims:
            continue
        if not _fills(groups, now, first_names):
            continue
        steps = gcd(*(group.size for group in groups))
        role = Role(chosen, groups, steps, ())
        role = replace(role, allowed=_allowed(role, kind, config, now))
        if role.allowed and _plain(module, channels, role, examples):
            found.append(role)
            taken |= {id(group) for group in groups}
    return tuple(found)


def uniform(channels: Channels, found: Sequence[Role]) -> Channels:
    """The channels with every group frozen that is in no role."""
    kept = {id(group) for role in found for group in role.groups}
    groups = tuple(
        replace(group, reason=NO_NUMBER) if group.prunable and id(group) not in kept else group
        for group in channels.groups
    )
    return replace(channels, groups=groups)


def solved(small: nn.Module, found: Iterable[Role], plan: RemovalPlan, examples: Examples) -> Values:
    """The changes of the configuration with which a plain model computes what the shrunk module does.

    Args:
        small: after the removal, of whatever weights by now; its `config` is as before.
        found: the roles of the model before.
        plan: of the removal.

    Raises:
        GateError: there are none.
    """
    kind, config, values = type(small), small.config, dict[tuple[str, ...], int | float]()
    before, after = shapes_of(kind, config), {name: tuple(t.shape) for name, t in small.state_dict().items()}
    for role in found:
        name, dim = next((part.parameter, part.dim) for part in role.groups[0].slices if part.parameter in before)
        gone = role.steps - after[name][dim] * role.steps // before[name][dim]
        if gone:
            values |= role.values(gone)
    values |= _epsilons(config, plan)
    if why := _differs(small, config, values, examples):
        raise GateError(
            f"no configuration of {kind.__name__} says the shrunk model ({why}); nothing was written. "
            "prune.widths: free writes a folder that extcon_cli.load opens"
        )
    return values


def _plain(module: nn.Module, channels: Channels, role: Role, examples: Examples) -> bool:
    """Cut the fewest channels of this role from a copy, anywhere: is there a configuration for what is left?"""
    gone, generator = role.allowed[0], np.random.default_rng(0)
    statuses = []
    for group in role.groups:
        mask = np.zeros(group.size, bool)
        mask[generator.permutation(group.size)[: group.size // role.steps * gone]] = True
        statuses.append(GroupStatus(group, mask, mask))
    trial = duplicate(module)
    plan = plan_removal(trial, channels, [], statuses)
    remove(trial, plan)
    return not _differs(trial, module.config, {**role.values(gone), **_epsilons(module.config, plan)}, examples)


def _differs(small: nn.Module, config: Any, values: Values, examples: Examples) -> str:
    """What a plain model of the changed configuration does otherwise with the same weights. Empty: nothing."""
    try:
        there = filled(type(small), changed(config, values), small.state_dict())
        there.to(next(small.parameters()).device)
    except Exception as error:  # the library refuses values and shapes in many ways
        return (str(error).strip().splitlines() or [""])[-1].strip()[:200] or type(error).__name__
    if moved := differences_between(small, there, examples):
        return str(moved[0])
    batches = (batch for example in each_example(examples) for batch in random_batches(example, sizes=(1, 3)))
    gap = difference(small, there, batches)
    return f"its outputs differ by {gap.relative:.1e} of the largest" if gap.relative > EXACT else ""


def _epsilons(config: Any, plan: RemovalPlan) -> dict[tuple[str, ...], float]:
    """The eps of norms whose mean runs over fewer channels now."""
    return {place: norm.eps * (norm.before / norm.after) for norm in plan.norms for place in epsilons(config, norm.eps)}


def _allowed(role: Role, kind: type[nn.Module], config: Any, now: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """How many of a role's parts may go: the configuration takes the numbers, and makes the shapes that are left."""

    def fits(gone: int) -> bool:
        left = role.steps - gone
        if any(field.value is not None and field.value * left % role.steps for field in role.fields):
            return False
        try:
            then = shapes_of(kind, changed(config, role.values(gone)))
        except Exception:  # the library refuses what a field cannot be, in many ways
            return False
        dims = {place for field in role.fields for place in field.dims}
        return all(
            size * left == then[name][dim] * role.steps if (name, dim) in dims else size == then[name][dim]
            for name, shape in now.items()
            for dim, size in enumerate(shape)
        )

    tried = range(1, min(role.steps, MOST_TRIED + 1))
    least = next((gone for gone in tried if fits(gone)), 0)
    if least == 1:
        return tuple(range(1, role.steps))
    if role.steps <= MOST_TRIED:
        return tuple(gone for gone in tried if least and fits(gone))
    return tuple(range(least, role.steps, least)) if least else ()


def _fills(groups: Iterable[ChannelGroup], now: dict[str, tuple[int, ...]], first_names: dict[str, str]) -> bool:
    """Whether these groups hold every position of the dimensions that they lie in, so that a share is a share of it."""
    places: dict[tuple[str, int], int] = {}
    for group in groups:
        for part in group.slices:
            slot = (first_names.get(part.parameter, part.parameter), part.dim)
            places[slot] = places.get(slot, 0) + part.index.size
    return all(count == now[name][dim] for (name, dim), count in places.items() if name in now)


def _first_names(module: nn.Module) -> dict[str, str]:
    """The first name of each tensor of the state dict: tied ones have several."""
    firsts: dict[int, str] = {}
    return {name: firsts.setdefault(id(tensor), name) for name, tensor in module.state_dict(keep_vars=True).items()}
