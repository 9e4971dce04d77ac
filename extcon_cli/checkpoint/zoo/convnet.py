"""A plain convolutional net: conv-BN-ReLU with max pooling between, global mean, linear. No residual sums."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ConvNet(nn.Module):
    """One conv-BN-ReLU for each width, at half the resolution of the one before."""

    def __init__(self, num_classes: int = 10, widths: Sequence[int] = (32, 64, 128), channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = channels
        for i, width in enumerate(widths):
            if i:
                layers.append(nn.MaxPool2d(2))
            layers += [
                nn.Conv2d(inside, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            inside = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inside, num_classes)

    def forward(self, x: Tensor) -> Tensor:  # (B, channels, H, W) -> (B, num_classes)
        return self.fc(self.pool(self.features(x)).flatten(1))
