"""Which channel groups the YAML of an Ultralytics model has a number for, and the YAML of a shrunk model.

Its trainer builds a model anew from the YAML. So channels go only as the YAML can say it: each of its numbers sizes
some groups, which keep the same share of their channels, and what a row gives stays a multiple of 8. What each number
sizes is not told by names: it is changed, the model built on the meta device, and the shapes are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, Literal

from torch import nn

from extcon_cli.channels import ChannelGroup, Channels, Difference, channel_groups, difference, differences_between
from extcon_cli.channels.compare import EXACT, Examples, each_example, random_batches
from extcon_cli.checkpoint.ultralytics.config import (
    Shapes,
    Width,
    built,
    shapes_of,
    unbuildable,
    widths,
    with_widths,
    written_out,
)
from extcon_cli.checkpoint.ultralytics.outputs import raw_outputs
from extcon_cli.errors import GateError, one_line

MOST_TRIED = 16
"""Values of one number that are tried: more would be finer than anyone needs."""
NO_NUMBER = "its YAML has no number for this width alone (prune.widths: free removes it)"


@dataclass(frozen=True)
class Sized:
    """Channel groups that one number of the YAML sizes."""

    width: Width
    groups: tuple[ChannelGroup, ...]
    parts: int
    """Equal parts of which each group consists; whole parts go."""
    allowed: tuple[int, ...]
    """How many parts may go."""

    def value(self, gone: int) -> int:
        """The number where so many parts are gone."""
        return self.width.value * (self.parts - gone) // self.parts


def sized(channels: Channels, config: Mapping[str, Any]) -> tuple[Sized, ...]:
    """What each number of a model's written out YAML sizes, where all of that can go."""
    now = shapes_of(config)
    held = {id(group): _slots(group, now) for group in channels.groups}
    owners: dict[int, list[Width]] = {}
    changes: dict[Width, set[tuple[str, int]]] = {}
    for width in widths(config):
        smaller = width.value // 2 // width.step * width.step or width.step
        then = _tried(config, {width: smaller}, now)
        if smaller >= width.value or then is None:
            continue
        changes[width] = {slot for slot in _all_slots(now) if _size(then, slot) != _size(now, slot)}
        for group in channels.groups:
            if held[id(group)] & changes[width]:
                owners.setdefault(id(group), []).append(width)
    found = []
    for width, slots in changes.items():
        groups = tuple(group for group in channels.groups if held[id(group)] & slots)
        covered = set[tuple[str, int]]().union(*(held[id(group)] for group in groups))
        alone = all(group.prunable and owners[id(group)] == [width] for group in groups)
        if groups and alone and slots <= covered:
            parts = gcd(width.value, *(group.size for group in groups))
            fitting = [gone for gone in range(1, parts) if width.value * gone % (parts * width.step) == 0]
            found.append(Sized(width, groups, parts, tuple(fitting[:: -(-len(fitting) // MOST_TRIED) or 1])))
    return tuple(_checked(found, config, now, held))


@dataclass(frozen=True)
class Widths:
    """What may go from a model, and how the smaller one says its widths."""

    kind: Literal["uniform", "free"]
    every: Channels
    """All channels of the model."""
    config: Mapping[str, Any]
    """The YAML, written out where it is to say the widths."""
    found: tuple[Sized, ...]
    """Empty where widths are free."""
    shapes: Shapes
    """Of the model."""
    halves: Mapping[str, int]
    """The attribute `c` of C2f and its like, by their names: half of what their first layer gives."""

    @classmethod
    def of(cls, model: Any, example: Examples, kind: Literal["uniform", "free"]) -> Widths:
        """Look at a model.

        Raises:
            TraceError: it cannot be traced.
            GateError: its YAML builds another model, or has a number for nothing.
        """
        with raw_outputs(model):
            every = channel_groups(model, example, ignore_unreached=True)  # the decoder of boxes has no width
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if kind == "free":
            return cls(kind, every, model.yaml, (), shapes, _halves(model))
        config = written_out(model)
        found = sized(every, config)
        if not found:
            raise GateError("the YAML of this model has no number for any width that can go: set prune.widths to free")
        return cls(kind, every, config, found, shapes, _halves(model))

    @property
    def channels(self) -> Channels:
        """The channels, with every group frozen that the YAML has no number for."""
        if self.kind == "free":
            return self.every
        kept = {id(group) for one in self.found for group in one.groups}
        groups = (
            replace(group, reason=NO_NUMBER) if group.prunable and id(group) not in kept else group
            for group in self.every.groups
        )
        return replace(self.every, groups=tuple(groups))

    def values(self, small: nn.Module) -> dict[Width, int]:
        """The numbers of the YAML that are others for a shrunk model."""
        after, values = {name: tuple(tensor.shape) for name, tensor in small.state_dict().items()}, {}
        for one in self.found:
            slot = min(_slots(one.groups[0], self.shapes))
            gone = one.parts - _size(after, slot) * one.parts // _size(self.shapes, slot)
            if gone:
                values[one.width] = one.value(gone)
        return values

    def finish(self, small: Any, example: Examples) -> Difference | None:
        """Give a shrunk model the YAML and the attributes of its widths, in place.

        Returns: how far the outputs are from those of what Ultralytics builds from the YAML; None: it can build none.

        Raises:
            GateError: that is another model.
        """
        for name, half in self.halves.items():
            module: Any = small.get_submodule(name)
            module.c = half if 2 * half == module.cv1.conv.out_channels else module.cv1.conv.out_channels // 2
        if self.kind == "free":
            small.yaml = unbuildable(self.config)
            return None
        config = with_widths(self.config, self.values(small))
        try:
            there = built(small, config)
        except RuntimeError as error:  # its shapes are others
            raise GateError(f"no YAML says the shrunk model ({one_line(error)})") from None
        with raw_outputs(small), raw_outputs(there):
            moved = differences_between(small, there, example)
        batches = (batch for one in each_example(example) for batch in random_batches(one, sizes=(1, 3)))
        gap = difference(small, there, batches)
        if moved or not gap.relative <= EXACT:
            why = moved[0] if moved else f"its outputs differ by {gap.relative:.1e} of the largest"
            raise GateError(f"what Ultralytics builds from the YAML is another model ({why}); nothing was written")
        small.yaml = there.yaml
        return gap


def _halves(model: nn.Module) -> dict[str, int]:
    """Exports split by this attribute what the forward pass cuts into two."""
    found = {}
    for name, module in model.named_modules():
        half, first = getattr(module, "c", None), getattr(getattr(module, "cv1", None), "conv", None)
        if isinstance(half, int) and isinstance(first, nn.Conv2d) and first.out_channels == 2 * half:
            found[name] = half
    return found


def _checked(
    found: list[Sized], config: Mapping[str, Any], now: Shapes, held: Mapping[int, set[tuple[str, int]]]
) -> Iterator[Sized]:
    """With the numbers alone that make the shapes that are left; all are tried at once, as none minds another."""
    good: dict[Width, list[int]] = {one.width: [] for one in found}
    for at in range(max((len(one.allowed) for one in found), default=0)):
        tried = {one: one.allowed[at] for one in found if at < len(one.allowed)}
        then = _tried(config, {one.width: one.value(gone) for one, gone in tried.items()}, now)
        if then is None:
            continue
        for one, gone in tried.items():
            slots = set[tuple[str, int]]().union(*(held[id(group)] for group in one.groups))
            if all(_size(then, slot) * one.parts == _size(now, slot) * (one.parts - gone) for slot in slots):
                good[one.width].append(gone)
    yield from (replace(one, allowed=tuple(good[one.width])) for one in found if good[one.width])


def _tried(config: Mapping[str, Any], values: Mapping[Width, int], now: Shapes) -> Shapes | None:
    """The shapes with other numbers; None: Ultralytics builds nothing of them, or another network."""
    try:
        then = shapes_of(with_widths(config, values))
    except Exception:  # the library refuses what a number cannot be, in many ways
        return None
    return then if then.keys() == now.keys() else None


def _slots(group: ChannelGroup, shapes: Shapes) -> set[tuple[str, int]]:
    """Where a group's channels are given, not read: the first dimension of tensors."""
    return {(part.parameter, 0) for part in group.slices if part.dim == 0 and part.parameter in shapes}


def _all_slots(shapes: Shapes) -> Iterator[tuple[str, int]]:
    return ((name, 0) for name, shape in shapes.items() if shape)


def _size(shapes: Shapes, slot: tuple[str, int]) -> int:
    return shapes[slot[0]][slot[1]]
