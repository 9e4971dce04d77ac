"""Numbers: regression by the mean squared error."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from extcon_cli.errors import DataError
from extcon_cli.tasks.base import Task


class Regression(Task):
    """Numbers. Outputs and targets (B, K) float32. Mean squared error; R2, the mean over the targets.

    A teacher guides by the mean squared error to its outputs.
    """

    name, figure, higher = "regression", "r2", True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs.float().reshape(targets.shape), targets)

    def distill(self, outputs: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs, teacher.float().reshape(targets.shape))

    def metrics(self) -> Determination:
        return Determination()

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.float().reshape(targets.shape) - targets).square().reshape(len(targets), -1).mean(1)

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return super().rank(metrics)[1:]  # the loss alone: it is what is minimised

    def check(self, outputs: Tensor, targets: Tensor, classes: int | None) -> int | None:
        if targets[0].numel() != outputs[0].numel():
            given = tuple(outputs.shape[1:])
            raise DataError(f"a target has {targets[0].numel()} numbers, the model gives {given} for a sample")
        return None


class Determination:
    """R2: 1 - residual / spread of each target, then their mean."""

    adds_up = ("errors", "seen")

    def __init__(self) -> None:
        self.errors: list[Tensor] = []
        self.seen: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.errors.append((outputs.float().reshape(targets.shape).double() - targets.double()).square().cpu())
        self.seen.append(targets.double().cpu())

    def compute(self) -> Mapping[str, float]:
        squared, y = torch.cat(self.errors), torch.cat(self.seen)  # both (N, K)
        residual, spread = squared.mean(0), (y - y.mean(0)).square().mean(0)
        # where a target never changes: 1 if it is met, else 0
        r2 = torch.where(spread > 0, 1 - residual / spread.clamp_min(1e-300), (residual == 0).double())
        return {"r2": float(r2.mean())}
