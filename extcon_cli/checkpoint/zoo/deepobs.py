"""The 2c2d network of DeepOBS (Schneider et al. 2019), with as many input channels as asked for."""

from __future__ import annotations

from torch import Tensor, nn


class TwoConvTwoDense(nn.Module):
    """conv 5x5 - ReLU - pool, twice (32, 64 filters), dense 1024, ReLU, dense; 1,703,370 parameters for 3x32x32."""

    def __init__(self, num_classes: int = 10, channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        left = ((size - 4) // 2 - 4) // 2
        self.classifier = nn.Sequential(nn.Linear(64 * left * left, 1024), nn.ReLU(), nn.Linear(1024, num_classes))

    def forward(self, x: Tensor) -> Tensor:  # (B, channels, size, size) -> (B, num_classes)
        return self.classifier(self.features(x).flatten(1))
