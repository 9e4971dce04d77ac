"""The paper's own forms of the bifurcation, for comparison: R(F, d) = sum_i |d_i| ||F_i||_2 in training.

`Race` lets every filter run with v_0 = c u_0 while the task tips each to one side. `penalty` is R as a term of the
loss (its subgradient chatters and never reaches zero exactly); the proximal step reaches it, when lambda is large
enough. `group_lasso` is sum ||F_i||, the classic without d.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters, norms, parameters, rowwise, scale


def group_lasso(module: nn.Module, filters: Filters) -> Tensor:
    """sum_i ||F_i||_2, differentiable."""
    return _differentiable_norms(module, filters).sum()


@dataclass
class Catalysts:
    """The auxiliary variables d of some filters, moved by the gradient flow of R beside the optimizer's F."""

    module: nn.Module
    filters: Filters
    d: Tensor  # (n,) |d_i|; 0 where a filter has none
    strength: float  # lambda

    def penalty(self) -> Tensor:
        """lambda sum_i |d_i| ||F_i||_2, differentiable in F: a term of the loss."""
        return self.strength * (self.d * _differentiable_norms(self.module, self.filters)).sum()

    @torch.no_grad()
    def follow(self, lr: float) -> None:
        """d_i <- max(0, |d_i| - lr lambda ||F_i||): the step of d that goes with a subgradient step of F."""
        self.d = (self.d - lr * self.strength * norms(self.module, self.filters).to(self.d)).clamp_min(0.0)

    @torch.no_grad()
    def proximal(self, lr: float) -> Tensor:
        """Shrink every ||F_i|| by lr lambda |d_i|, to exactly zero where that is more than it has; d follows.

        Returns the factor of each filter: (n,).
        """
        before = norms(self.module, self.filters).to(self.d)
        factors = (1 - lr * self.strength * self.d / before.clamp_min(1e-30)).clamp_min(0.0)
        factors = torch.where(before > 0, factors, 0.0) if bool((before == 0).any()) else factors
        scale(self.module, self.filters, torch.where(self.d > 0, factors, 1.0))
        self.d = torch.where(self.d > 0, (self.d - lr * self.strength * before).clamp_min(0.0), self.d)
        return factors


def race_scores(module: nn.Module, catalysts: Catalysts) -> Tensor:
    """||F_i|| / |d_i| after the race: over 1 the filter wins, under 1 its catalyst does. (n,)."""
    return (norms(module, catalysts.filters).to(catalysts.d) / catalysts.d.clamp_min(1e-12)).cpu()


def _differentiable_norms(module: nn.Module, filters: Filters) -> Tensor:
    squares = [tensor.square() for tensor in parameters(module, filters)]
    # the subgradient 0 at F = 0 instead of NaN
    return (filters.sums(rowwise(squares, filters.parts)) + 1e-24).sqrt()
