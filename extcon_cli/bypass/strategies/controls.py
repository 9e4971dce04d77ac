"""What extensions are compared with: going on, a lowered rate, a cosine restart, weights moved at random."""

from __future__ import annotations

import torch

from extcon_cli.bypass.strategies.base import ContractionReport, Schedule, Strategy, StrategyContext


class GoingOn(Strategy):
    """The baseline: the model as it is."""

    title = "Going on"

    def contract(self) -> ContractionReport:
        return ContractionReport(self.module)


class LoweredRate(GoingOn):
    """The model as it is, at a lowered learning rate."""

    title = "Lowered learning rate"

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        self.lr_factor = context.settings.lr_drop


class CosineRestart(GoingOn):
    """The model as it is, the learning rate along half a cosine down to zero."""

    title = "Cosine restart"
    rate_schedule = Schedule("cosine")


class Perturbed(GoingOn):
    """Every weight moved at random, by a share of its tensor's root mean square."""

    title = "Perturbed weights"

    @torch.no_grad()
    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        generator = torch.Generator().manual_seed(context.seed)
        for tensor in self.module.parameters():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            tensor.add_(context.settings.perturbation * tensor.square().mean().sqrt() * noise)
