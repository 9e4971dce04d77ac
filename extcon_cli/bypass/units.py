"""The units (channels) of a model as its channel groups: what writes them, what reads them, and new random ones.

An extension by units changes no output because what reads a new unit is zero. Where a mean counts units (layer norm)
there is no such extension, and the group is left alone.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from extcon_cli.channels import ChannelGroup, Channels, Consumer, Slice, classify, zero_channels
from extcon_cli.channels.modules import named_tensors


@dataclass(frozen=True)
class Units:
    """The units of one group: slices that write each of them, that read it, and that go along (normalisation)."""

    group: ChannelGroup
    writers: tuple[Slice, ...]  # rows of the maps that produce them: weights of two dimensions or more
    readers: tuple[Slice, ...]  # columns of the maps that read them
    others: tuple[Slice, ...]  # biases, gamma, beta, running statistics
    consumers: tuple[Consumer, ...]

    @property
    def name(self) -> str:
        return self.group.name


def units(module: nn.Module, channels: Channels) -> list[Units]:
    """The groups whose units can be replaced or added without changing an output."""
    tensors = named_tensors(module)
    found = []
    for group in channels.groups:
        if not group.prunable:
            continue
        ids = channels.ids_of(group)
        consumers = tuple(
            consumer for consumer in channels.consumers if np.isin(channels.ids_along(consumer.axis), ids).any()
        )
        read = {(consumer.weight, consumer.dim) for consumer in consumers}
        written = {(part.parameter, part.dim) for part in group.zeroing_slices}
        readers = tuple(part for part in group.slices if (part.parameter, part.dim) in read)
        writers = tuple(
            part
            for part in group.slices
            if (part.parameter, part.dim) not in read and tensors[part.parameter].dim() > 1
        )
        others = tuple(part for part in group.slices if tensors[part.parameter].dim() == 1)
        whole = len(readers) + len(writers) + len(others) == len(group.slices)
        if whole and writers and readers and written and not any(consumer.zeros_only for consumer in consumers):
            found.append(Units(group, writers, readers, others, consumers))
    return found


def contractible(module: nn.Module, channels: Channels, found: list[Units]) -> list[Units]:
    """Those whose units can all go exactly once they are zero. Of the others a constant, such as sigma(0), is read
    through zero padding, so that one unit would have to stay and carry it."""
    trial = copy.deepcopy(module)
    for item in found:
        zero_channels(trial, item.group, np.zeros(1, np.int64))
    alone = {status.group for status in classify(trial, channels) if status.removable[:1].any()}
    return [item for item in found if item.group in alone]


def draw(like: Tensor, dim: int, number: int, generator: torch.Generator) -> Tensor:
    """`number` random slices along `dim`, normal, as large as those that are not zero; He where all are."""
    rows = like.detach().movedim(dim, 0).flatten(1).float()
    alive = rows[rows.any(1)]
    scale = float(alive.square().mean().sqrt()) if len(alive) else (2.0 / rows.shape[1]) ** 0.5
    shape = (number, *like.movedim(dim, 0).shape[1:])
    drawn = torch.randn(shape, generator=generator) * scale
    return drawn.to(like).movedim(0, dim)


def neutral(name: str) -> float:
    """What a new unit has in a vector: 1 for gamma and a running variance, else 0."""
    last = name.rpartition(".")[2]
    return 1.0 if last in ("weight", "running_var") else 0.0


def positions(part: Slice, chosen: Tensor) -> Tensor:
    """Where the chosen units, by number, lie along the slice's dimension."""
    return torch.from_numpy(part.index[chosen.numpy()].ravel())


def taken(module: nn.Module, parts: tuple[Slice, ...]) -> Iterator[tuple[Slice, Tensor]]:
    """Each slice with the tensor that holds it."""
    tensors = named_tensors(module)
    for part in parts:
        yield part, tensors[part.parameter]


def covers(module: nn.Module, group: Units) -> bool:
    """Whether each slice is a whole dimension in order, so that new units can stand at its end."""
    tensors = named_tensors(module)
    return all(
        np.array_equal(part.index.ravel(), np.arange(tensors[part.parameter].shape[part.dim]))
        for part in group.group.slices
    )


def slots(group: ChannelGroup) -> frozenset[tuple[str, int]]:
    """The dimensions of parameters in which a group lies. Where it `covers` them it is the only one there, and they
    are the same once it has more units; its name may be another group's too."""
    return frozenset((part.parameter, part.dim) for part in group.slices)


def by_name(numbers: Mapping[ChannelGroup, int]) -> dict[str, int]:
    """Numbers of units by the names of their groups; groups of one name are added up."""
    total: Counter[str] = Counter()
    for group, number in numbers.items():
        total[group.name] += number
    return dict(total)
