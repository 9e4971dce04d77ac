"""Is a model stalled, and would an extension help? Evidence, a probe on copies, and a verdict. Nothing is kept.

The probe is the run in miniature, contraction included, judged on the validation data. What the extended copy gains
before it is contracted tells nothing: it gained 14 to 45 % on ten seeds, of which contraction left 4 nothing at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.bypass.plateau import slope
from extcon_cli.errors import UsageError

STALLED_T, STALLED_SLOPE = 2.0, 0.05
"""Of a window of losses: a t statistic, or a share of the loss in 1000 steps, under which it counts as stalled."""
SETTLING = 4
"""One in so many steps, at first, that does not count for the slope: a checkpoint brings no moments of its optimizer,
and the loss that jumps when they begin anew and falls back would look like progress."""


@dataclass(frozen=True)
class Trial:
    """A short run of one way."""

    training: list[float]  # the loss of each step
    validation: Tensor  # (N,) the loss of each sample at its end, back in the original architecture


def diagnose(
    trials: Mapping[str, Callable[[], Trial | str]],
    dead: dict[str, dict[str, int]],
    gradient: tuple[float, float],
    *,
    least_gain: float,
) -> dict[str, Any]:
    """Slope of going on, dead units, gradient norm, and what each extension gains over going on in a few steps.

    Args:
        trials: "baseline", "lr_drop" and the extensions, of equal length, on the same batches; a text says why one
            cannot be made.
        dead: of each layer its units, those dead, and those nearly so.
        gradient: ||g|| and ||theta|| of the training loss.
        least_gain: share of the loss, and at least twice its standard error, from which on a gain is predicted.

    Returns the evidence; `behind` are the extensions that the best leaves behind by more than their errors.

    Raises: UsageError (no extension of this model).
    """
    ended = {name: make() for name, make in trials.items()}
    base = ended["baseline"]
    if isinstance(base, str):
        raise UsageError(f"the model cannot be trained on: {base}")
    probe = {name: _against(base, trial) for name, trial in ended.items() if isinstance(trial, Trial)}
    refused = {name: trial for name, trial in ended.items() if isinstance(trial, str)}
    extensions = [name for name in probe if name not in ("baseline", "lr_drop")]
    if not extensions:
        raise UsageError(f"no extension of this model: {'; '.join(f'{k}: {v}' for k, v in refused.items())}")
    sure = [name for name in extensions if probe[name]["gain"] > 2 * probe[name]["error"]]
    best = max(sure or extensions, key=lambda name: probe[name]["gain"])
    reach = probe[best]["gain"] - 2 * probe[best]["error"]
    found = slope(base.training[len(base.training) // SETTLING :])
    size, weights = gradient
    return {
        "slope": asdict(found),
        "stalled": found.t < STALLED_T or found.relative < STALLED_SLOPE,
        "dead": dead,
        "gradient": {"norm": size, "of_weights": size / max(weights, 1e-30)},
        "probe": probe,
        "refused": refused,
        "probed": best,
        "gain": probe[best]["gain"],
        "gain_error": probe[best]["error"],
        "predicted": best in sure and probe[best]["gain"] >= least_gain,
        "behind": [name for name in extensions if probe[name]["gain"] + 2 * probe[name]["error"] < reach],
    }


def _against(base: Trial, trial: Trial) -> dict[str, float]:
    """Validation loss, relative gain over the baseline, and its standard error over the samples, taken in pairs."""
    gaps, scale = base.validation - trial.validation, float(base.validation.mean().abs().clamp_min(1e-30))
    error = float(gaps.std()) / math.sqrt(len(gaps)) / scale if len(gaps) > 1 else math.inf
    return {"loss": float(trial.validation.mean()), "gain": float(gaps.mean()) / scale, "error": error}


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
