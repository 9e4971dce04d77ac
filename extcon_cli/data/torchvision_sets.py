"""torchvision's sets by name, in memory. Nothing is fetched unless the recipe says so."""

from __future__ import annotations

import torch

from extcon_cli.data.paths import expanded
from extcon_cli.data.splits import Arrays, Source
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec

TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashionmnist": "FashionMNIST"}


def torchvision_set(spec: DataSpec, name: str) -> Source:
    """CIFAR10, CIFAR100, MNIST or FashionMNIST under `root`, in memory as uint8 (N, C, H, W)."""
    from torchvision import datasets

    root = expanded(spec.root or "~/data")
    parts = []
    for train in (True, False):
        try:
            found = getattr(datasets, name)(str(root), train=train, download=spec.download)
        except Exception as error:  # its readers of damaged files raise nearly anything
            if spec.download:
                raise DataError(f"{name}: could not be downloaded to {root}: {error}") from error
            fix = "set data.root to where it lies, or data.download: true to fetch it"
            raise DataError(f"{name}: not found under {root.absolute()}; {fix}") from error
        x = torch.as_tensor(found.data)
        x = x.permute(0, 3, 1, 2).contiguous() if x.dim() == 4 else x[:, None]
        parts.append(Arrays(x, torch.as_tensor(found.targets).long()))
    return Source(parts[0], parts[1], tuple(found.classes))
