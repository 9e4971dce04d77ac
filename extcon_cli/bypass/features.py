"""How many directions the features of a model use: those that its last map reads. It trains nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.channels.compare import Inputs, call
from extcon_cli.channels.modules import evaluating

MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ROWS = 10_000
"""Samples and places at most that are looked at."""


@dataclass(frozen=True)
class FeatureRank:
    """Of the features that the last map reads."""

    effective: float
    """exp of the entropy of the centred features' normalised singular values (Roy & Vetterli 2007); at least 1."""
    width: int


@torch.no_grad()
def feature_rank(module: nn.Module, batches: Iterable[Inputs]) -> FeatureRank | None:
    """Over these inputs, in eval mode. None: no linear map or convolution was called."""
    last: list[tuple[nn.Module, Tensor]] = []

    def see(layer: nn.Module, given: tuple[Any, ...], _: object) -> None:
        if given and isinstance(given[0], Tensor):
            last[:] = [(layer, given[0])]

    handles = [child.register_forward_hook(see) for child in module.modules() if isinstance(child, MAPS)]
    found: list[Tensor] = []
    try:
        with evaluating(module):
            for batch in batches:
                call(module, batch)
                if not last:
                    return None
                layer, x = last[0]
                axis = -1 if isinstance(layer, nn.Linear) else 1
                found.append(x.movedim(axis, -1).flatten(0, -2).float().cpu())
                if sum(map(len, found)) >= ROWS:
                    break
    finally:
        for handle in handles:
            handle.remove()
    return _rank(torch.cat(found)[:ROWS]) if found else None


def _rank(features: Tensor) -> FeatureRank:  # (rows, width)
    values = torch.linalg.svdvals((features - features.mean(0)).double())
    total = values.sum()
    if total <= 1e-12 * features.abs().max().double():  # the same for every sample
        return FeatureRank(1.0, features.shape[1])
    shares = values[values > 0] / total
    return FeatureRank(float((-shares * shares.log()).sum().exp()), features.shape[1])
