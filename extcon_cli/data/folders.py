"""Sets that torchvision reads: its own by name, folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from extcon_cli.data.splits import Arrays, Source, Stream
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec

TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashionmnist": "FashionMNIST"}
CENTER_SHARE = 7 / 8
"""Share of the shorter side that the centre crop of a large picture keeps (224 of 256)."""


def torchvision_set(spec: DataSpec, name: str) -> Source:
    """CIFAR10, CIFAR100, MNIST or FashionMNIST under `root`, in memory as uint8 (N, C, H, W)."""
    from torchvision import datasets

    root = Path(spec.root or "~/data").expanduser()
    parts = []
    for train in (True, False):
        try:
            found = getattr(datasets, name)(str(root), train=train, download=spec.download)
        except (RuntimeError, OSError) as error:
            if spec.download:
                raise DataError(f"{name}: could not be downloaded to {root}: {error}") from error
            fix = "set data.root to where it lies, or data.download: true to fetch it"
            raise DataError(f"{name}: not found under {root.absolute()}; {fix}") from error
        x = torch.as_tensor(found.data)
        x = x.permute(0, 3, 1, 2).contiguous() if x.dim() == 4 else x[:, None]
        parts.append(Arrays(x, torch.as_tensor(found.targets).long()))
    return Source(parts[0], parts[1], tuple(found.classes))


def image_folder(spec: DataSpec, input_shape: tuple[int, ...] | None) -> Source:
    """root/train/CLASS/*.jpg and root/test or root/val, read while they are used."""
    from torchvision.datasets import ImageFolder

    if spec.root is None:
        raise DataError("`data.root` is missing: dataset 'image_folder' needs the folder with train/ and test/")
    if input_shape is None or len(input_shape) != 3:
        raise DataError("`model.input_shape` is missing: image_folder needs [channels, height, width] to resize to")
    root = Path(spec.root).expanduser()
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or test is None:
        raise DataError(f"{root.absolute()}: should hold train/ and test/ (or val/), each with a folder for each class")
    read = _Resized(input_shape)
    try:
        parts = [ImageFolder(str(folder), transform=read) for folder in (root / "train", test)]
    except (FileNotFoundError, OSError) as error:
        raise DataError(f"{root.absolute()}: {error}") from error
    if parts[0].classes != parts[1].classes:
        odd = sorted(set(parts[0].classes) ^ set(parts[1].classes))
        raise DataError(f"{root.absolute()}: train and {test.name} differ in their classes: {', '.join(odd[:4])}")
    train, held = (Stream(part, torch.arange(len(part))) for part in parts)
    return Source(train, held, tuple(parts[0].classes))


class _Resized:
    """A picture -> (C, H, W) uint8: shorter side resized, centre cropped. A class, so that workers can pickle it."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        from torchvision.transforms import v2

        channels, height, width = input_shape
        side = max(height, width)
        resize = v2.Resize(round(side / CENTER_SHARE) if side >= 128 else side, antialias=True)
        mode = v2.Grayscale(1) if channels == 1 else v2.RGB()
        self.transform = v2.Compose([v2.PILToTensor(), mode, resize, v2.CenterCrop((height, width))])

    def __call__(self, picture: Any) -> Any:
        return self.transform(picture)
