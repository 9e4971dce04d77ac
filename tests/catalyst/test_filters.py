"""F_i: which parameters' zeros make a filter zero, their norm, and their scaling, against loops over channels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters, by_group, norms, scale
from extcon_cli.channels import Channels


def members(filters: Filters, number: int) -> list[tuple[str, int, int]]:
    """(parameter, dim, row) of one filter, the slow way."""
    return [
        (part.parameter, part.dim, int(row))
        for part in filters.parts
        for row, owner in zip(part.rows, part.owner, strict=True)
        if int(owner) == number
    ]


def slices(net: nn.Module, filters: Filters, number: int) -> list[Tensor]:
    named = dict(net.named_parameters())
    return [named[name].detach().select(dim, row) for name, dim, row in members(filters, number)]


def test_groups_are_the_residual_stream_the_inner_layer_and_the_bare_one(channels: Channels, filters: Filters) -> None:
    assert [(group.name, group.size) for group in filters.groups] == [("stem", 8), ("conv1", 12), ("bare", 6)]
    assert len(filters) == 26
    silent = [{part.parameter for part in group.zeroing_slices} for group in filters.groups]
    assert silent == [
        {"bn.weight", "bn.bias", "bn2.weight", "bn2.bias"},  # every normalised producer of the residual sum
        {"bn1.weight", "bn1.bias"},
        {"bare.weight", "bare.bias"},  # no normalisation: the row itself
    ]
    assert "is an output" in next(group.reason for group in channels.groups if group.name == "fc")


def test_norms_are_those_of_all_slices_together(net: nn.Module, filters: Filters) -> None:
    found = norms(net, filters)
    for number in range(len(filters)):
        together = torch.cat([part.flatten() for part in slices(net, filters, number)])
        torch.testing.assert_close(found[number], together.norm())


def test_scaling_touches_the_slices_and_nothing_else(net: nn.Module, filters: Filters) -> None:
    before = copy.deepcopy(net)
    factors = torch.ones(len(filters))
    factors[3], factors[25] = 0.5, 0.0
    scale(net, filters, factors)
    for number in range(len(filters)):
        for new, old in zip(slices(net, filters, number), slices(before, filters, number), strict=True):
            torch.testing.assert_close(new, old * factors[number])
    assert torch.equal(net.stem.weight, before.stem.weight)
    assert torch.equal(net.fc.weight, before.fc.weight)


def test_a_view_by_group_covers_all(filters: Filters) -> None:
    parts = by_group(filters, torch.arange(len(filters)))
    assert torch.equal(torch.cat(list(parts.values())), torch.arange(26))
