"""Growing a plain stack in depth while it is trained: layers that are not there yet are exact identities, and held.

Between two activations that are the same when applied twice (ReLU), a layer of weight I and bias 0 changes no output.
So the architecture is whole from the first step on: to insert a layer is to let go of it, and every step costs the
whole depth. It has no loop of its own.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from extcon_cli.bypass.strategies.identity import FEW, SquareLayer, become_identity, square_layers
from extcon_cli.channels import Channels
from extcon_cli.channels.compare import EXACT, Inputs, call, random_batches
from extcon_cli.channels.modules import evaluating
from extcon_cli.errors import UsageError

SHARE = 0.5
"""Of the steps, the first, over which the layers are inserted."""


class Growth:
    """The hidden square layers of a module, inserted one by one from the first on, evenly.

    Args:
        module: with new weights; those of the layers are set.
        steps: of the training.

    Raises: UsageError (no deep stack; a normalisation in it; an activation that changes what it has given).
    """

    def __init__(self, module: nn.Module, channels: Channels, example: Inputs, *, steps: int) -> None:
        found = square_layers(module, channels)
        self.layers = [layer for layer in found if all(_owner(layer, part.parameter) for part in layer.units.others)]
        if len(self.layers) < FEW:
            raise UsageError(
                f"{len(self.layers)} hidden layers of a plain stack without normalisation have as many outputs as "
                f"inputs: growing in depth is for {FEW} and more"
            )
        self.steps = steps
        for layer in self.layers:
            become_identity(layer.module)
        moved = self._moved(module, example)
        if moved > EXACT:
            raise UsageError(
                f"a layer at the identity changes outputs by {moved:.1e} of the largest: to grow in depth, an "
                "activation has to leave alone what it has given, as ReLU does"
            )

    def inserted(self, done: int) -> int:
        """How many of the layers are there after `done` steps."""
        return min(len(self.layers), int(len(self.layers) * done / max(1, SHARE * self.steps)))

    @torch.no_grad()
    def after_step(self, index: int, optimizer: torch.optim.Optimizer) -> int:
        """Hold what is not there yet after step `index`, and insert what is due; how many are there then."""
        before, after = self.inserted(index), self.inserted(index + 1)
        for layer in self.layers[before:]:
            become_identity(layer.module)
            for parameter in layer.module.parameters():
                optimizer.state.pop(parameter, None)  # a layer that comes in has no history
        return after

    @torch.no_grad()
    def _moved(self, module: nn.Module, example: Inputs) -> float:
        """By how much what a layer reads differs from what the one before read, as a share of the largest."""
        read: list[Tensor] = []
        handles = [
            layer.module.register_forward_pre_hook(lambda _, given: read.append(given[0])) for layer in self.layers
        ]
        try:
            with evaluating(module):
                call(module, next(iter(random_batches(example))))
        finally:
            for handle in handles:
                handle.remove()
        pairs = [(a, b) for a, b in pairwise(read) if a.shape == b.shape]  # else other maps between
        return max((float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in pairs), default=0.0)


def _owner(layer: SquareLayer, parameter: str) -> bool:
    return parameter.rpartition(".")[0] == layer.name
