"""Is training stalled, and would bypassing help? Slope of the losses, dead units. It trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from extcon_cli.bypass.extension import Extended
from extcon_cli.channels.compare import Inputs, call
from extcon_cli.channels.modules import evaluating

RARE = 0.01
"""Share of the inputs under which a unit that fires counts as nearly dead."""


@dataclass(frozen=True)
class Slope:
    """Least-squares slope of a window of losses: `relative` is -slope * 1000 / mean, `t` its t statistic."""

    relative: float  # share of the loss that 1000 steps take away
    t: float  # above 2: the loss falls, beyond its noise


@dataclass(frozen=True)
class UnitCounts:
    """Units of one layer by what they do on the training data."""

    dead: int
    """Give one constant."""
    nearly: int
    """Leave their lowest value for under 1 % of the data."""
    units: int


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
def dead_units(extended: Extended, inputs: Callable[[], Iterable[Inputs]]) -> dict[str, UnitCounts]:
    """The channels of each site, over all samples and places. Two passes over the inputs."""
    low: dict[str, Tensor] = {}
    off: dict[str, Tensor] = {}
    seen: dict[str, int] = {}

    def lowest(name: str, rows: Tensor) -> None:
        low[name] = torch.minimum(low[name], rows.amin(1)) if name in low else rows.amin(1)

    def count(name: str, rows: Tensor) -> None:
        off[name] = off.get(name, torch.zeros(())) + (rows != low[name][:, None]).sum(1).cpu()
        seen[name] = seen.get(name, 0) + rows.shape[1]

    for look in (lowest, count):
        _watch(extended, inputs(), look)
    return {
        site.name: UnitCounts(
            dead=int((off[site.name] == 0).sum()),
            nearly=int(((off[site.name] > 0) & (off[site.name] < RARE * seen[site.name])).sum()),
            units=site.width,
        )
        for site in extended.sites
    }


def _watch(extended: Extended, inputs: Iterable[Inputs], look: Callable[[str, Tensor], None]) -> None:
    """Show `look` the activations of every site, (channels, samples and places), in eval mode."""

    def hook(name: str, axis: int) -> Callable[..., None]:
        return lambda module, given, y: look(name, y.movedim(axis, 0).flatten(1))

    handles = [extended.psi(s).register_forward_hook(hook(s.name, s.axis)) for s in extended.sites]
    try:
        with evaluating(extended):
            for batch in inputs:
                call(extended, batch)
    finally:
        for handle in handles:
            handle.remove()
