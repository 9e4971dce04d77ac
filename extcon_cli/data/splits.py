"""Where samples lie: `Arrays` in memory, `Stream` read one by one. Values only; loader.py makes batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from extcon_cli.errors import DataError


@dataclass(frozen=True)
class Arrays:
    """Samples in memory."""

    x: Tensor  # (N, ...) inputs; uint8 where they are images, which the loader scales to 0..1
    y: Tensor  # (N,) int64 classes, or (N, K) float32 targets

    def __len__(self) -> int:
        return len(self.x)

    def select(self, indices: Tensor) -> Arrays:  # (M,) int64
        """Only these samples, in this order."""
        return Arrays(self.x[indices], self.y[indices])

    def head(self, count: int) -> Tensor:
        """The inputs of the first `count` samples: (count, ...)."""
        return self.x[:count]


@dataclass(frozen=True)
class Stream:
    """Samples that a map-style dataset of (input, target) reads when they are asked for."""

    dataset: Any
    indices: Tensor  # (N,) int64 into the dataset

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, indices: Tensor) -> Stream:  # (M,) int64
        """Only these samples, in this order."""
        return Stream(self.dataset, self.indices[indices])

    def head(self, count: int) -> Tensor:
        """The inputs of the first `count` samples: (count, ...)."""
        return torch.stack([as_tensor(self.dataset[int(i)][0]) for i in self.indices[:count]])


Split = Arrays | Stream


@dataclass(frozen=True)
class Source:
    """A dataset before the validation split is cut from its training part."""

    train: Split
    test: Split
    class_names: tuple[str, ...] | None = None


def as_tensor(sample: Any) -> Tensor:
    """One input as a tensor: (C, H, W) uint8 of a PIL image, tensors and arrays as they are."""
    if isinstance(sample, Tensor):
        return sample
    if type(sample).__module__.startswith("PIL"):
        from torchvision.transforms.v2.functional import pil_to_tensor

        return pil_to_tensor(sample)
    try:
        return torch.as_tensor(sample)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the dataset gives a {type(sample).__name__} where a tensor should be") from error


def held_out(count: int, share: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Cut `count` samples at random into (those that stay, those held out), by a seed of its own.

    Both come in random order. At least one sample is on each side where 0 < share and count > 1.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    aside = min(max(round(share * count), 1), count - 1) if share > 0 and count > 1 else 0
    return order[aside:], order[:aside]


def one_file(root: str | None, suffixes: Sequence[str], dataset: str) -> Any:
    """The path `root`, or the only file with one of the suffixes in the folder `root`."""
    from pathlib import Path

    if root is None:
        raise DataError(f"`data.root` is missing: dataset {dataset!r} needs the file, or the folder it lies in")
    path = Path(root).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder (data.root of dataset {dataset!r})")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and p.is_file())
    if len(found) != 1:
        names = ", ".join(p.name for p in found[:4]) or "none"
        raise DataError(f"{path}: should hold one {' or '.join(suffixes)} file, holds {names}; name it in data.root")
    return found[0]
