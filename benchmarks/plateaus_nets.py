"""Nets of plateaus.py that are no multilayer perceptrons: convolutions without skips, residual branches that die."""

from __future__ import annotations

from torch import Tensor, nn


def deep_convolutions(depth: int = 20, width: int = 8) -> nn.Module:
    """So many 3 x 3 convolutions on 4 x 4 maps, without skips and normalisation, for 1 x 8 x 8."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, 2, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


class Branch(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return x + self.outer(self.inner(x).relu())


def residual(blocks: int = 4, width: int = 8) -> nn.Module:
    """Residual blocks on 4 x 4 maps, without normalisation, for 1 x 8 x 8."""
    branches = [Branch(width) for _ in range(blocks)]
    stem = nn.Conv2d(1, width, 3, 2, padding=1)
    return nn.Sequential(stem, *branches, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))
