"""The regularisers: the paper's R(F, d) = sum_i |d_i| ||F_i||_2, its race, and Group Lasso for comparison.

The race starts every filter with |d_i| = c ||F_i|| and lets the task tip each to one side. Its outcome is a score
here; what it would remove is decided by the target, because no c meets a ratio (docs/method/catalyst.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters, norms, parameters, sum_rows


def catalyst_penalty(module: nn.Module, filters: Filters, d: Tensor) -> Tensor:
    """R(F, d) = sum_i |d_i| ||F_i||_2, differentiable in F. d: (n,)."""
    return (d * _differentiable_norms(module, filters)).sum()


def group_lasso(module: nn.Module, filters: Filters) -> Tensor:
    """sum_i ||F_i||_2, differentiable in F."""
    return _differentiable_norms(module, filters).sum()


@dataclass
class Race:
    """Every filter against its catalyst, from |d_i| = c ||F_i||, in training with lambda R(F, d)."""

    module: nn.Module
    filters: Filters
    d: Tensor  # (n,) |d_i|
    strength: float  # lambda

    @classmethod
    def begin(cls, module: nn.Module, filters: Filters, *, c: float, strength: float) -> Race:
        """All filters at the start, with the same c."""
        return cls(module, filters, c * norms(module, filters), strength)

    def penalty(self) -> Tensor:
        """lambda R(F, d): a term of the loss."""
        return self.strength * catalyst_penalty(self.module, self.filters, self.d)

    def step(self, lr: float) -> None:
        """|d_i| <- max(0, |d_i| - lr lambda ||F_i||), after each optimizer step."""
        self.d = (self.d - lr * self.strength * norms(self.module, self.filters)).clamp_min(0.0)

    def scores(self) -> Tensor:
        """||F_i|| / |d_i|: above 1 the filter leads, under 1 its catalyst does. (n,)."""
        return (norms(self.module, self.filters) / self.d.clamp_min(1e-12)).cpu()


def _differentiable_norms(module: nn.Module, filters: Filters) -> Tensor:
    squares = [tensor.square() for tensor in parameters(module, filters)]
    # the square root's gradient at 0 is infinite: a floor far under any norm makes it the subgradient 0
    return (filters.sums(sum_rows(squares, filters.parts)) + torch.finfo(torch.float32).tiny).sqrt()
