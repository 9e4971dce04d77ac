"""How far signal and gradient reach through a deep plain stack. It trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.bypass.strategies.identity import SquareLayer
from extcon_cli.channels.modules import evaluating


@dataclass(frozen=True)
class Propagation:
    """Of the hidden square layers of a plain stack, in the order of the forward pass."""

    layers: int
    signal: float
    """Of what the last one gives: the part that differs between samples, as a share of its size."""
    gradient: float
    """Norm of the gradient of the first one's weights, as a share of the largest."""
    signals: tuple[float, ...]
    """Of each layer, as `signal`."""
    gradients: tuple[float, ...]
    """Of each layer, as `gradient`."""


def propagation(
    module: nn.Module,
    layers: list[SquareLayer],
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],  # of a batch: ()
) -> Propagation:
    """Over a few training batches, in eval mode."""
    order: list[str] = []
    signals: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Callable[..., None]:
        def see(_: nn.Module, given: Any, output: Tensor) -> None:
            if name not in signals:
                order.append(name)
            rows = output.detach().flatten(1)  # (samples, units and places)
            share = (rows - rows.mean(0)).norm() / rows.norm().clamp_min(1e-30)
            signals.setdefault(name, []).append(share)

        return see

    weights = [(layer.name, _weight(layer.module)) for layer in layers]
    totals = {name: torch.zeros_like(weight) for name, weight in weights}
    handles = [layer.module.register_forward_hook(watch(layer.name)) for layer in layers]
    try:
        with evaluating(module), torch.enable_grad():
            for batch in batches:
                found = torch.autograd.grad(loss(module, batch), [weight for _, weight in weights])
                for (name, _), gradient in zip(weights, found, strict=True):
                    totals[name] += gradient
    finally:
        for handle in handles:
            handle.remove()
    norms = [float(totals[name].norm()) for name in order]
    through = tuple(float(torch.stack(signals[name]).mean()) for name in order)
    back = tuple(norm / max(*norms, 1e-30) for norm in norms)
    return Propagation(len(order), through[-1], back[0], through, back)


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight
