"""The mean of a model's weights over the end of its training. It trains nothing and judges nothing.

Batch norm's statistics belong to single states, not to their mean: they are measured anew on training inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

from extcon_cli.channels.compare import Inputs, call
from extcon_cli.channels.modules import evaluating

EVERY = 10
"""Steps between two states that count."""
BATCHES = 200
"""Batches at most from which batch norm's statistics are measured."""

BatchNorm = nn.modules.batchnorm._BatchNorm


class WeightAverage:
    """The mean over the last `share` of `steps` optimizer steps: of every tenth state, and of the last."""

    def __init__(self, share: float, steps: int) -> None:
        self.first = min(round((1 - share) * steps), steps - 1)
        """The first step that counts."""
        self.steps = steps
        self.averaged: AveragedModel | None = None

    @property
    def states(self) -> int:
        """How many states it is the mean of."""
        return int(self.averaged.n_averaged) if self.averaged is not None else 0

    def note(self, module: nn.Module, index: int) -> None:
        """Count the state after step `index`, of 0 .. steps - 1, where it is due."""
        due = index >= self.first and (index - self.first) % EVERY == 0
        if due or index + 1 == self.steps:
            self.averaged = self.averaged or AveragedModel(module)
            self.averaged.update_parameters(module)

    def result(self, batches: Iterable[Inputs], *, least: int = 2) -> nn.Module:
        """A module of its own with the mean, in eval mode; `batches`, `least` as in `measure_statistics`."""
        assert self.averaged is not None, "no step was noted"
        module: nn.Module = copy.deepcopy(self.averaged.module)
        measure_statistics(module, batches, least=least)
        return module.eval()

    def state_dict(self) -> Mapping[str, Any]:
        """The mean so far."""
        return {"averaged": self.averaged.state_dict() if self.averaged is not None else None}

    def load_state_dict(self, state: Mapping[str, Any], module: nn.Module) -> None:
        """Go on from what `state_dict` gave; `module` is any of the same architecture."""
        self.averaged = None
        if state["averaged"] is not None:
            self.averaged = AveragedModel(module)
            self.averaged.load_state_dict(state["averaged"])


@torch.no_grad()
def measure_statistics(module: nn.Module, batches: Iterable[Inputs], *, least: int = 2) -> None:
    """Give every batch norm the mean and variance of its inputs on these batches, weighed by their size.

    All else runs as in eval mode.

    Args:
        batches: training inputs, shuffled: sorted by class, the variance within a batch would be too small.
        least: samples of a batch that counts. One may have no variance, unless it is part of a larger batch.
    """
    norms = [child for child in module.modules() if isinstance(child, BatchNorm) and child.track_running_stats]
    if not norms:
        return
    seen, rates = 0, [child.momentum for child in norms]
    with evaluating(module):
        for norm in norms:
            norm.training = True
        for batch in batches:
            size = next(len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
            if size < least:
                continue
            seen += size
            for norm in norms:
                norm.momentum = size / seen  # the first forgets what was there
            call(module, batch)
    for norm, rate in zip(norms, rates, strict=True):
        norm.momentum = rate


def has_statistics(module: nn.Module) -> bool:
    """Whether a mean of this module's weights needs training inputs."""
    return any(isinstance(child, BatchNorm) and child.track_running_stats for child in module.modules())
