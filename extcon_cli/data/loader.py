"""Batches as a pure function of (seed, epoch, step), so that any step can be made again. Loads no files itself.

`InMemoryLoader` keeps the whole set on the device; `StreamingLoader` reads samples with worker processes.
Both shuffle and augment on their own: the epoch's order, crops and flips are drawn at its first step.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from extcon_cli.data.augment import crop_and_flip
from extcon_cli.data.splits import Arrays, Stream, as_tensor
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import AugmentSpec, NormalizeSpec

Batch = tuple[Tensor, Tensor]  # inputs (B, ...) float32, targets (B,) int64 or (B, K) float32, on the device


class Loader(Protocol):
    """What a training loop or a measurement needs to know about data."""

    @property
    def samples(self) -> int:
        """Samples in the set; a shuffled epoch may leave out the last few, that fill no batch."""

    def __len__(self) -> int:
        """Steps in an epoch."""

    def batch(self, step: int) -> Batch:
        """The batch of this step, counted from the start of the run."""

    def __iter__(self) -> Iterator[Batch]:
        """One epoch, the first."""


@dataclass(frozen=True)
class _Epoch:
    order: Tensor | None  # (N,) int64, None: as they lie
    down: Tensor | None = None  # (N,) int64, None: no augmentation
    right: Tensor | None = None  # (N,) int64
    mirror: Tensor | None = None  # (N,) bool


class _Plan:
    """The order, crops and flips of each epoch, and what turns raw inputs into the model's."""

    def __init__(
        self,
        samples: int,
        batch_size: int,
        *,
        device: torch.device | str,
        augment: AugmentSpec | None,
        normalize: NormalizeSpec | None,
        seed: int,
        shuffle: bool,
    ) -> None:
        self.samples = samples
        self.batch_size = min(batch_size, samples)
        self.device = torch.device(device)
        self.augment = augment if augment and (augment.crop_padding or augment.flip) else None
        self.seed, self.shuffle = seed, shuffle
        # whole batches only where a model learns (steady steps, no batch of one for a batch norm)
        self.steps = samples // self.batch_size if shuffle else -(-samples // self.batch_size)
        self.normalize = normalize
        self._affine: tuple[Tensor, Tensor] | None = None
        self._epoch = -1
        self._drawn = _Epoch(None)

    def epoch(self, number: int) -> _Epoch:
        """What the random numbers of this epoch say; nothing carries over from the epoch before."""
        if number != self._epoch and (self.shuffle or self.augment):
            generator = torch.Generator().manual_seed(mix(self.seed, number))
            order = torch.randperm(self.samples, generator=generator) if self.shuffle else None
            down = right = mirror = None
            if self.augment:
                reach = 2 * self.augment.crop_padding + 1
                down, right = torch.randint(reach, (2, self.samples), generator=generator)
                mirror = torch.randint(2, (self.samples,), generator=generator).bool()
                if not self.augment.flip:
                    mirror.zero_()
            move = [None if t is None else t.to(self.device) for t in (order, down, right, mirror)]
            self._drawn = _Epoch(*move)
        self._epoch = number
        return self._drawn

    def finish(self, x: Tensor, y: Tensor, epoch: _Epoch, part: slice) -> Batch:
        """Raw inputs on the device -> augmented, scaled, normalised."""
        if self.augment and epoch.down is not None and epoch.right is not None and epoch.mirror is not None:
            x = crop_and_flip(x, epoch.down[part], epoch.right[part], epoch.mirror[part], self.augment.crop_padding)
        return self._normalized(x), y

    def _normalized(self, x: Tensor) -> Tensor:
        image = x.dtype == torch.uint8
        if self.normalize is None:
            return x.float() / 255 if image else x
        if self._affine is None:
            mean = torch.tensor(self.normalize.mean, dtype=torch.float64)
            std = torch.tensor(self.normalize.std, dtype=torch.float64)
            shape = [-1] + [1] * (x.dim() - 2)
            pair = -mean / std, 1 / (std * 255 if image else std)
            self._affine = (
                pair[0].float().view(shape).to(self.device),
                pair[1].float().view(shape).to(self.device),
            )
        shift, scale = self._affine
        return torch.addcmul(shift, x.float(), scale)


class InMemoryLoader:
    """Batches of a set that lies on the device as a whole, images as uint8 until they are used.

    Args:
        x: (N, ...) inputs. uint8: scaled to 0..1, then normalised, batch by batch.
        y: (N,) int64 or (N, K) float32 targets.
        batch_size: samples in a batch; all samples where there are fewer.
        augment: random crop and flip of each image, None: none.
        normalize: (x - mean) / std along dimension 1, None: none.
        seed: of the order and the augmentation.
        shuffle: a new order for each epoch, and whole batches only; else as they lie, the last batch shorter.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        augment: AugmentSpec | None = None,
        normalize: NormalizeSpec | None = None,
        seed: int = 0,
        shuffle: bool = False,
    ) -> None:
        if augment and (augment.crop_padding or augment.flip) and x.dim() != 4:
            raise DataError(f"data.augment needs images (N, C, H, W); these inputs are {tuple(x.shape)}")
        self._plan = _Plan(
            len(x), batch_size, device=device, augment=augment, normalize=normalize, seed=seed, shuffle=shuffle
        )
        self._x, self._y = x.to(device), y.to(device)

    @property
    def samples(self) -> int:
        return self._plan.samples

    def __len__(self) -> int:
        return self._plan.steps

    def batch(self, step: int) -> Batch:
        number, index = divmod(step, self._plan.steps)
        epoch = self._plan.epoch(number)
        part = slice(index * self._plan.batch_size, (index + 1) * self._plan.batch_size)
        chosen: Any = part if epoch.order is None else epoch.order[part]
        return self._plan.finish(self._x[chosen], self._y[chosen], epoch, part)

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(step) for step in range(len(self)))


class StreamingLoader:
    """Batches of a set that is read while it is used, by `workers` processes, a few batches ahead.

    A dataset that draws random numbers from torch draws the same ones for the same (seed, epoch, sample).
    Asking for the next step goes on reading; asking for another one starts there anew.
    `classes`: refuse a label that is not below this number.
    """

    def __init__(
        self,
        split: Stream,
        batch_size: int,
        *,
        workers: int = 0,
        device: torch.device | str = "cpu",
        augment: AugmentSpec | None = None,
        normalize: NormalizeSpec | None = None,
        seed: int = 0,
        shuffle: bool = False,
        regression: bool = False,
        classes: int | None = None,
    ) -> None:
        self._plan = _Plan(
            len(split), batch_size, device=device, augment=augment, normalize=normalize, seed=seed, shuffle=shuffle
        )
        self._split, self._workers = split, workers
        self._regression, self._classes = regression, classes
        self._reading: Iterator[Batch] | None = None
        self._next = -1

    @property
    def samples(self) -> int:
        return self._plan.samples

    def __len__(self) -> int:
        return self._plan.steps

    def batch(self, step: int) -> Batch:
        number, index = divmod(step, self._plan.steps)
        epoch = self._plan.epoch(number)
        if self._reading is None or step != self._next or index == 0:
            self._reading = self._read(number, index, epoch)
        self._next = step + 1
        x, y = next(self._reading)
        self._check(y)
        x, y = (t.to(self._plan.device, non_blocking=True) for t in (x, y))
        part = slice(index * self._plan.batch_size, index * self._plan.batch_size + len(x))
        return self._plan.finish(x, y, epoch, part)

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(step) for step in range(len(self)))

    def _read(self, number: int, index: int, epoch: _Epoch) -> Iterator[Batch]:
        size = self._plan.batch_size
        order = torch.arange(self.samples) if epoch.order is None else epoch.order.cpu()
        batches = [order[i * size : (i + 1) * size].tolist() for i in range(index, self._plan.steps)]
        return iter(
            DataLoader(
                _Seeded(self._split, mix(self._plan.seed, number)),
                batch_sampler=batches,
                collate_fn=self._collate,
                num_workers=self._workers,
                # a dataset out of the user's own file cannot be imported by its name in a fresh process
                multiprocessing_context="fork" if self._workers and sys.platform == "linux" else None,
                pin_memory=self._plan.device.type == "cuda",
                generator=torch.Generator().manual_seed(0),  # else the loader would draw from the model's own
            )
        )

    def _collate(self, samples: list[tuple[Any, Any]]) -> Batch:
        x = torch.stack([as_tensor(sample[0]) for sample in samples])
        y = torch.as_tensor([sample[1] for sample in samples]) if not self._regression else _targets(samples)
        return x if x.dtype == torch.uint8 or not x.is_floating_point() else x.float(), y

    def _check(self, y: Tensor) -> None:
        if self._regression:
            return
        if y.is_floating_point() or y.dim() != 1:
            raise DataError(f"the dataset's labels should be whole numbers, not {y.dtype} {tuple(y.shape)}")
        if int(y.min()) < 0 or (self._classes is not None and int(y.max()) >= self._classes):
            top = "" if self._classes is None else f" to {self._classes - 1}"
            raise DataError(f"a label is {int(y.min())} or {int(y.max())}; labels should run from 0{top}")


class _Seeded(Dataset[tuple[Any, Any]]):
    """The split's samples; the random numbers that reading one draws depend on nothing but seed and sample."""

    def __init__(self, split: Stream, seed: int) -> None:
        self.split, self.seed = split, seed

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        sample = int(self.split.indices[index])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.seed, sample))
            x, y = self.split.dataset[sample][:2]
        return x, y

    def __len__(self) -> int:
        return len(self.split)


def _targets(samples: list[tuple[Any, Any]]) -> Tensor:  # -> (B, K) float32
    return torch.stack([torch.as_tensor(sample[1], dtype=torch.float32).reshape(-1) for sample in samples])


def mix(*numbers: int) -> int:
    """One seed out of several numbers, so that neighbours have nothing in common."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def loader_of(
    split: Arrays | Stream,
    batch_size: int,
    *,
    workers: int,
    device: torch.device | str,
    augment: AugmentSpec | None,
    normalize: NormalizeSpec | None,
    seed: int,
    shuffle: bool,
    regression: bool,
    classes: int | None,
) -> Loader:
    """The loader that fits the split."""
    if isinstance(split, Arrays):
        return InMemoryLoader(
            split.x,
            split.y,
            batch_size,
            device=device,
            augment=augment,
            normalize=normalize,
            seed=seed,
            shuffle=shuffle,
        )
    return StreamingLoader(
        split,
        batch_size,
        workers=workers,
        device=device,
        augment=augment,
        normalize=normalize,
        seed=seed,
        shuffle=shuffle,
        regression=regression,
        classes=classes,
    )
