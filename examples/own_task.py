"""A task of one's own: noise is taken out of the bundled digits, and a model is judged by its PSNR.

    extcon train --recipe examples/own_task.yaml --out denoise.safetensors
    extcon prune denoise.safetensors --recipe examples/own_task.yaml --out denoise_small.safetensors

Both take seconds on a CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import extcon_cli
from extcon_cli.tasks import Task


class Denoising(Task):
    """Outputs and targets are pictures (B, 1, H, W) in 0..1."""

    name, figure, higher = "denoising", "psnr", True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()

    def metrics(self) -> PSNR:
        return PSNR()


class PSNR:
    """10 log10(1 / mean squared error); torchmetrics' classes have the same two methods."""

    def __init__(self) -> None:
        self.squares, self.pixels = 0.0, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.squares += float((outputs - targets).square().sum())
        self.pixels += targets.numel()

    def compute(self) -> dict[str, float]:
        return {"psnr": 10 * float(np.log10(self.pixels / self.squares))}


class Net(nn.Module):
    """What it adds to the noisy picture."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def pictures() -> tuple[TensorDataset, TensorDataset]:
    """(noisy, clean) pairs to train and to test on."""
    draw, parts = torch.Generator().manual_seed(0), []
    with np.load(Path(extcon_cli.__file__).parent / "data" / "digits.npz") as file:
        for name in ("x_train", "x_test"):
            clean = torch.from_numpy(file[name])[:, None] / 255
            parts.append(TensorDataset(clean + 0.3 * torch.randn(clean.shape, generator=draw), clean))
    return parts[0], parts[1]
