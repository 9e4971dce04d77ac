"""Is training stalled, and would bypassing help? Slope of the losses, dead units. It trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from extcon_cli.bypass.extension import Extended


@dataclass(frozen=True)
class Slope:
    """Least-squares slope of a window of losses: `relative` is -slope * 1000 / mean, `t` its t statistic."""

    relative: float  # share of the loss that 1000 steps take away
    t: float  # above 2: the loss falls, beyond its noise


def slope(losses: Sequence[float]) -> Slope:
    """Of losses one step apart; at least 3."""
    y = torch.tensor(losses, dtype=torch.float64)
    x = torch.arange(len(y), dtype=torch.float64)
    x = x - x.mean()
    b = (x @ y) / (x @ x)
    residual = y - y.mean() - b * x
    error = ((residual @ residual) / (len(y) - 2) / (x @ x)).sqrt()
    return Slope(float(-1000 * b / y.mean().abs().clamp_min(1e-30)), float(-b / error.clamp_min(1e-30)))


@torch.no_grad()
def dead_units(extended: Extended, batches: Iterable[Any]) -> dict[str, tuple[int, int]]:
    """Of each site: channels whose activation is one constant over all samples and places; and channels in all."""
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}

    def hook(name: str, axis: int) -> Any:
        def see(module: Any, inputs: Any, y: Tensor) -> None:
            rows = y.movedim(axis, 0).flatten(1)
            least, most = rows.amin(1), rows.amax(1)
            low[name] = torch.minimum(low[name], least) if name in low else least
            high[name] = torch.maximum(high[name], most) if name in high else most

        return see

    handles = [extended.psi(s).register_forward_hook(hook(s.name, s.axis)) for s in extended.sites]
    training = extended.training
    extended.eval()
    try:
        for batch in batches:
            extended(batch)
    finally:
        extended.train(training)
        for handle in handles:
            handle.remove()
    return {s.name: (int((low[s.name] == high[s.name]).sum()), s.width) for s in extended.sites}
