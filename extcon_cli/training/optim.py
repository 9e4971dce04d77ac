"""Optimizers, learning rates and run lengths out of a recipe. The rate is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from extcon_cli.errors import GateError
from extcon_cli.recipe.schema import OptimizerSpec, ScheduleSpec

FUSED = ("cpu", "cuda", "mps", "xpu")
"""Devices for which torch has optimizers of one kernel."""


class Length(Protocol):
    """A section of a recipe that says how long it lasts; exactly one of the two is set."""

    @property
    def epochs(self) -> float | None: ...

    @property
    def steps(self) -> int | None: ...


def total_steps(length: Length, steps_per_epoch: int) -> int:
    """Optimizer steps of a phase; at least one, where its length is given in epochs."""
    return length.steps if length.steps is not None else max(1, round((length.epochs or 0) * steps_per_epoch))


def optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer over all parameters alike (GateError: there are none)."""
    wanted = list(parameters)
    if not wanted:
        raise GateError("the model has no parameters to train")
    # one kernel for all parameters: 2 to 7 times faster than torch's default on the CPU; spread ones have none
    fused = all(p.device.type in FUSED and p.is_floating_point() and not _spread(p) for p in wanted)
    if spec.name == "sgd":
        return SGD(
            wanted,
            lr=spec.lr,
            momentum=spec.momentum,
            nesterov=spec.nesterov,
            weight_decay=spec.weight_decay,
            fused=fused,
        )
    kind = Adam if spec.name == "adam" else AdamW
    return kind(wanted, lr=spec.lr, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=fused)


def lr_factor(spec: ScheduleSpec, step: int, total: int) -> float:
    """Factor of the learning rate at `step` of 0 .. total - 1, in 0..1.

    Warm-up over w steps: (step + 1) / w. Then over p = (step - w) / (total - w):
    cosine: final + (1 - final) (1 + cos(pi p)) / 2. step: gamma to the number of milestones m with
    step >= round(m total). constant: 1.
    """
    warmup = min(spec.warmup, total)
    if step < warmup:
        return (step + 1) / warmup
    if spec.name == "cosine":
        share = (step - warmup) / (total - warmup)
        return spec.final + (1 - spec.final) * (1 + math.cos(math.pi * share)) / 2
    if spec.name == "step":
        return spec.gamma ** sum(step >= round(m * total) for m in spec.milestones)
    return 1.0


def _spread(parameter: nn.Parameter) -> bool:
    """Does each process hold a part of it (torch's DTensor, which takes long to import)?"""
    return hasattr(parameter, "device_mesh")
