"""Which filters go: the smallest normalised score first, until the target is met. Each group keeps a floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from extcon_cli.catalyst.filters import Filters
from extcon_cli.errors import GateError


def decide(
    scores: Tensor,  # (n,) what each filter is worth
    filters: Filters,
    ratio: float,  # share of the filters that goes, 0 < ratio < 1
    *,
    floor: float = 0.1,  # share of each group that stays, at least one filter
    keep: Sequence[str] = (),  # name patterns of groups that are not touched
) -> Tensor:
    """The filters that go, as a mask (n,): the nearest whole number to ratio * n.

    Raises:
        GateError: the floor and the kept groups leave too few filters to choose from.
    """
    wanted = round(ratio * len(filters))
    room = torch.zeros(len(filters), dtype=torch.bool)
    for group, span in zip(filters.groups, filters.spans(), strict=True):
        if any(fnmatchcase(group.name, pattern) for pattern in keep):
            continue
        most = group.size - max(1, math.ceil(floor * group.size))
        room[span][scores[span].argsort(stable=True)[:most]] = True
    if wanted > int(room.sum()):
        raise GateError(
            f"the target is missed: {wanted} of {len(filters)} filters should go, but prune.decide.floor {floor:g} "
            f"and the kept groups leave {int(room.sum())} to choose from; lower the floor or the ratio"
        )
    order = torch.where(room, scores, torch.inf).argsort(stable=True)
    mask = torch.zeros(len(filters), dtype=torch.bool)
    mask[order[:wanted]] = True
    return mask
