"""All filters that may go, of all channel groups, numbered 0 .. n-1, and F_i of each of them.

F_i is (gamma, beta) of every coupled normalised producer of channel i, (row, bias) of one without normalisation
(docs/method/catalyst.md). Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from extcon_cli.channels import ChannelGroup, Channels

LARGE = 1 << 22
"""Numbers whose squares are made tensor by tensor."""


@dataclass(frozen=True)
class Part:
    """One parameter that holds slices of some F: its `rows` belong to the filters `owner`."""

    parameter: str
    dim: int
    rows: Tensor  # (k,) positions along dim
    owner: Tensor  # (k,) filter of each position


@dataclass(frozen=True)
class Filters:
    """The filters of these groups behind each other; coupled filters (a residual stream) count as one."""

    groups: tuple[ChannelGroup, ...]
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, groups: Iterable[ChannelGroup]) -> Filters:
        """The filters of all prunable groups among these."""
        chosen = tuple(group for group in groups if group.prunable)
        rows: dict[tuple[str, int], list[Tensor]] = {}
        owners: dict[tuple[str, int], list[Tensor]] = {}
        start = 0
        for group in chosen:
            for part in group.zeroing_slices:
                index = torch.from_numpy(part.index)
                slot = (part.parameter, part.dim)
                rows.setdefault(slot, []).append(index.flatten())
                owners.setdefault(slot, []).append(
                    torch.arange(start, start + group.size).repeat_interleave(index.shape[1])
                )
            start += group.size
        parts = (Part(name, dim, torch.cat(rows[name, dim]), torch.cat(owners[name, dim])) for name, dim in rows)
        return cls(chosen, tuple(parts))

    def __len__(self) -> int:
        return sum(group.size for group in self.groups)

    def spans(self) -> list[slice]:
        """Where the filters of each group stand."""
        ends = torch.tensor([group.size for group in self.groups]).cumsum(0).tolist()
        return [slice(end - group.size, end) for group, end in zip(self.groups, ends, strict=True)]

    def chosen(self, mask: Tensor) -> list[Tensor]:
        """The numbers, within each group, of the filters that a mask (n,) picks."""
        return [mask[span].nonzero().flatten() for span in self.spans()]

    def masks(self, mask: Tensor) -> dict[ChannelGroup, np.ndarray[Any, np.dtype[np.bool_]]]:
        """A mask of all filters (n,) as one a group: (channels,)."""
        return {group: mask[span].cpu().numpy() for group, span in zip(self.groups, self.spans(), strict=True)}

    def owners(self, channels: Channels) -> Tensor:
        """For every channel id the number of its filter, -1 where it is none that may go: (positions,)."""
        owners = torch.full((len(channels.channel_ids),), -1)
        for group, span in zip(self.groups, self.spans(), strict=True):
            owners[torch.from_numpy(channels.ids_of(group))] = torch.arange(span.start, span.stop)
        return owners

    def sums(self, rows: Sequence[Tensor]) -> Tensor:
        """Add up one number a row of each part, into one number a filter: (n,)."""
        if not rows:
            return torch.zeros(len(self))
        dtype = torch.promote_types(rows[0].dtype, torch.float32)  # half precision is too coarse for a sum
        total = torch.zeros(len(self), device=rows[0].device, dtype=dtype)
        owners = torch.cat([part.owner for part in self.parts]).to(total.device)
        picked = [row[part.rows.to(row.device)] for part, row in zip(self.parts, rows, strict=True)]
        total.index_add_(0, owners, torch.cat(picked).to(total.dtype))
        return total


def parameters(module: nn.Module, filters: Filters) -> list[Tensor]:
    """The parameter of each part: each is asked for by its name, as a walk through a large module takes long."""
    return [attrgetter(part.parameter)(module) for part in filters.parts]


def sum_rows(tensors: Sequence[Tensor], parts: Sequence[Part]) -> list[Tensor]:
    """Each tensor summed over all dimensions but that of its part."""
    return [
        tensor if tensor.dim() == 1 else tensor.movedim(part.dim, 0).flatten(1).sum(1)
        for tensor, part in zip(tensors, parts, strict=True)
    ]


@torch.no_grad()
def norms(module: nn.Module, filters: Filters) -> Tensor:
    """||F_i||_2 of every filter: (n,)."""
    tensors = parameters(module, filters)
    if sum(tensor.numel() for tensor in tensors) > LARGE:
        rows = [sum_rows([tensor.square()], [part])[0] for tensor, part in zip(tensors, filters.parts, strict=True)]
    else:
        rows = sum_rows(torch._foreach_mul(tensors, tensors), filters.parts) if tensors else []
    return filters.sums(rows).sqrt()


@torch.no_grad()
def scale(module: nn.Module, filters: Filters, factors: Tensor) -> None:
    """F_i <- factors[i] F_i for every filter, in one fused multiplication. factors: (n,)."""
    tensors = parameters(module, filters)
    multipliers = []
    for tensor, part in zip(tensors, filters.parts, strict=True):
        rows = torch.ones(tensor.shape[part.dim], device=tensor.device, dtype=tensor.dtype)
        rows[part.rows.to(tensor.device)] = factors[part.owner.to(factors.device)].to(rows)
        multipliers.append(rows.reshape([-1 if dim == part.dim else 1 for dim in range(tensor.dim())]))
    if tensors:
        torch._foreach_mul_(tensors, multipliers)


def by_group(filters: Filters, values: Tensor) -> Mapping[str, Tensor]:
    """One value a filter (n,), split by the group's name."""
    return {group.name: values[span] for group, span in zip(filters.groups, filters.spans(), strict=True)}
