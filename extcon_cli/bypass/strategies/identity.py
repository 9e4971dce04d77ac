"""A new start for a deep stack without skips that is stuck: its hidden square layers begin near the identity.

What such a layer had learnt is given up, and no output is preserved. It is for plain stacks only: a layer of a residual
branch or of an attention is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extcon_cli.bypass.strategies.base import ContractionReport, Strategy, StrategyContext
from extcon_cli.bypass.units import Units, covers, neutral, taken, units
from extcon_cli.channels import Channels
from extcon_cli.errors import UsageError

FEW = 4
"""Hidden square layers under which a stack is not deep."""
NOISE = 0.09
"""Of the noise beside the identity, times the root of the inputs of a unit."""

BATCH_NORM = nn.modules.batchnorm._BatchNorm
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class IdentityReport(ContractionReport):
    """How many layers were drawn anew."""

    redrawn: int

    def to_json(self) -> dict[str, object]:
        return {"preserves": False, "redrawn": self.redrawn}


@dataclass(frozen=True)
class SquareLayer:
    """A map of as many outputs as inputs, between two layers of a plain stack."""

    name: str
    module: nn.Module
    units: Units  # that it writes, alone


def square_layers(module: nn.Module, channels: Channels) -> list[SquareLayer]:
    """The hidden square layers of a plain stack: each reads units that one map writes, and writes units alone."""
    plain = [item for item in units(module, channels) if len(item.writers) == 1 and covers(module, item)]
    read = {part.parameter for item in plain for part in item.readers}
    found = []
    for item in plain:
        name, _, key = item.writers[0].parameter.rpartition(".")
        layer = module.get_submodule(name)
        if key == "weight" and item.writers[0].parameter in read and _keeps_its_shape(layer):
            found.append(SquareLayer(name, layer, item))
    return found


def _keeps_its_shape(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.in_features == layer.out_features
    if not isinstance(layer, CONVOLUTIONS) or isinstance(layer.padding, str):
        return False
    sides = zip(layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    same = all(step == 1 and size % 2 and 2 * pad == gap * (size - 1) for size, step, pad, gap in sides)
    return same and layer.groups == 1 and layer.in_channels == layer.out_channels


@torch.no_grad()
def become_identity(layer: nn.Module) -> None:
    """Weight I, or a Dirac kernel, and bias 0."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    if weight.dim() == 2:
        nn.init.eye_(weight)
    else:
        nn.init.dirac_(weight)
    if isinstance(bias, Tensor):
        bias.zero_()


@torch.no_grad()
def near_identity(module: nn.Module, layer: SquareLayer, generator: torch.Generator) -> None:
    """I + noise (a Dirac kernel for convolutions), bias 0; the batch norm behind as a new one."""
    weight = layer.module.weight
    assert isinstance(weight, Tensor)
    become_identity(layer.module)
    weight.add_(torch.randn(weight.shape, generator=generator).to(weight) * NOISE / weight[0].numel() ** 0.5)
    for part, tensor in taken(module, layer.units.others):
        owner = module.get_submodule(part.parameter.rpartition(".")[0])
        if isinstance(owner, BATCH_NORM):
            tensor.fill_(neutral(part.parameter))


class NearIdentity(Strategy):
    """theta* with its hidden square layers near the identity; there is nothing to contract."""

    title = "Starting near the identity"

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        found = square_layers(self.module, context.channels())
        if len(found) < FEW:
            raise UsageError(
                f"{len(found)} hidden layers of a plain stack have as many outputs as inputs: to begin near the "
                f"identity is for {FEW} and more"
            )
        generator = torch.Generator().manual_seed(context.seed)
        for layer in found:
            near_identity(self.module, layer, generator)
        self.redrawn = len(found)

    def contract(self) -> IdentityReport:
        return IdentityReport(self.module, self.redrawn)
