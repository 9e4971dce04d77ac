"""Is a model stalled, and would an extension help? Evidence, a probe on copies, and a verdict. Nothing is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.bypass.plateau import slope
from extcon_cli.errors import GateError
from extcon_cli.training.loop import Trainer

STALLED_T, STALLED_SLOPE = 2.0, 0.05
"""Of a window of losses: a t statistic, or a share of the loss in 1000 steps, under which it counts as stalled."""


def diagnose(
    ways: dict[str, Callable[[], Trainer]],
    dead: dict[str, dict[str, int]],
    gradient: tuple[float, float],
    *,
    least_gain: float,
    check: Callable[[], None],
) -> dict[str, Any]:
    """Slope of going on, dead units, gradient norm, and what the extended copy gains over it in a few steps.

    Args:
        ways: trainers of "baseline", "extended" and "lr_drop" from copies, of equal length, on the same batches.
        dead: of each layer its units, those dead, and those nearly so.
        gradient: ||g|| and ||theta|| of the training loss.
        least_gain: share of the loss, beyond twice its standard error, from which on a gain is predicted.
    """
    losses = {name: _run(make(), check) for name, make in ways.items()}
    window = max(2, len(losses["baseline"]) // 4)
    ends = {name: sum(seen[-window:]) / window for name, seen in losses.items()}
    gaps = torch.tensor(losses["baseline"][-window:]) - torch.tensor(losses["extended"][-window:])
    scale = max(abs(ends["baseline"]), 1e-30)
    gain, error = float(gaps.mean()) / scale, float(gaps.std()) / math.sqrt(window) / scale
    gain, error = (value if math.isfinite(value) else 0.0 for value in (gain, error))
    found = slope(losses["baseline"])
    size, weights = gradient
    return {
        "slope": asdict(found),
        "stalled": found.t < STALLED_T or found.relative < STALLED_SLOPE,
        "dead": dead,
        "gradient": {"norm": size, "of_weights": size / max(weights, 1e-30)},
        "probe": ends,
        "gain": gain,
        "gain_error": error,
        "predicted": gain >= least_gain and gain > 2 * error,
    }


def gradient_norm(module: nn.Module, losses: Iterable[Tensor]) -> tuple[float, float]:
    """||mean gradient|| of these losses, and ||theta||."""
    weights = [p for p in module.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in weights]
    number = 0
    for loss in losses:
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        for held, new in zip(total, found, strict=True):
            if new is not None:
                held.add_(new)
        number += 1
    size = torch.stack([held.norm() for held in total]).norm() / max(number, 1)
    return float(size), float(torch.stack([p.detach().norm() for p in weights]).norm())


def _run(trainer: Trainer, check: Callable[[], None]) -> list[float]:
    seen: list[float] = []
    try:
        for step in trainer:
            check()
            seen.append(float(step.loss))
    except GateError:  # not finite
        return [*seen, *[1e30] * (trainer.total - len(seen))]
    return seen
