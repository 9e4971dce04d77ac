"""Where samples lie: `Arrays` in memory, `Stream` read one by one. Values only; they make no batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from extcon_cli.data.trees import length, mapped
from extcon_cli.errors import DataError


@dataclass(frozen=True)
class Arrays:
    """Samples in memory."""

    x: Any  # inputs, a tree of (N, ...); uint8 where they are images, which the loader scales to 0..1
    y: Any  # targets, a tree of (N, ...): (N,) int64 classes, (N, K) float32 ...

    def __len__(self) -> int:
        return length(self.x)

    def select(self, indices: Tensor) -> Arrays:  # (M,) int64
        """Only these samples, in this order."""
        return Arrays(*(mapped(tree, lambda leaf: leaf[indices]) for tree in (self.x, self.y)))


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


Split = Arrays | Stream


@dataclass(frozen=True)
class Source:
    """A dataset before the validation split is cut from its training part."""

    train: Split
    test: Split
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    """What the user should know of it, a line each."""


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
