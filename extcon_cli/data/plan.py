"""What an epoch draws at random, and what makes a batch of raw inputs the model's: pure functions of the seed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from extcon_cli.data.augment import crop_and_flip
from extcon_cli.data.trees import mapped
from extcon_cli.errors import UsageError
from extcon_cli.processes import WHOLE, Share
from extcon_cli.recipe.schema import AugmentSpec, NormalizeSpec

Batch = tuple[Any, Any]
"""Inputs and targets, each a tree of tensors (B, ...) on the device; lists of B trees where sizes differ."""
Change = Callable[[Batch, int], Batch]
"""A batch and the seed of its step -> the batch that is used."""


@dataclass(frozen=True)
class Epoch:
    """The order, crops and flips of one epoch."""

    order: Tensor | None  # (N,) int64, None: as they lie
    down: Tensor | None = None  # (N,) int64, None: no augmentation
    right: Tensor | None = None  # (N,) int64
    mirror: Tensor | None = None  # (N,) bool


class Plan:
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
        change: Change | None = None,
        share: Share = WHOLE,
    ) -> None:
        self.samples = samples
        self.batch_size = min(batch_size, samples)
        if share.number > self.batch_size:
            raise UsageError(
                f"a batch of {self.batch_size} cannot be shared by {share.number} processes: "
                "raise data.batch_size, or start fewer"
            )
        self.share = share
        self.device = torch.device(device)
        self.augment = augment if augment and (augment.crop_padding or augment.flip) else None
        self.seed, self.shuffle, self.change = seed, shuffle, change
        # whole batches only where a model learns (steady steps, no batch of one for a batch norm)
        self.steps = samples // self.batch_size if shuffle else -(-samples // self.batch_size)
        self.normalize = normalize
        self._affine: tuple[Tensor, Tensor] | None = None
        self._epoch = -1
        self._drawn = Epoch(None)

    def places(self, index: int, share: Share | None = None) -> slice:
        """What this process takes of an epoch's batch, or another share of it: a part of the epoch's order."""
        begin = index * self.batch_size
        part = (share or self.share).of(min(begin + self.batch_size, self.samples) - begin)
        return slice(begin + part.start, begin + part.stop)

    def epoch(self, number: int) -> Epoch:
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
            self._drawn = Epoch(*move)
        self._epoch = number
        return self._drawn

    def finish(self, x: Any, y: Any, epoch: Epoch, places: slice | Tensor, *step: int) -> Batch:
        """Raw inputs on the device -> augmented, scaled, normalised.

        Args:
            places: of these samples in the epoch.
            step: what a change of the batch draws its random numbers by.
        """
        if self.augment and epoch.down is not None and epoch.right is not None and epoch.mirror is not None:
            down, right, mirror = (part[places] for part in (epoch.down, epoch.right, epoch.mirror))
            x = crop_and_flip(x, down, right, mirror, self.augment.crop_padding)
        if isinstance(x, list):
            x = [self._normalized(picture[None])[0] for picture in x]
        else:
            x = mapped(x, self._normalized)
        return self.change((x, y), mix(self.seed, *step)) if self.change is not None else (x, y)

    def _normalized(self, x: Tensor) -> Tensor:
        """Images to 0..1 and normalised, other floats normalised; whole numbers stay what they are."""
        image = x.dtype == torch.uint8
        if self.normalize is None or not (image or x.is_floating_point()):
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


@dataclass(frozen=True)
class Variants:
    """All that crops and flips make of a sample, numbered: (down, right, mirror) to 0 .. number - 1 and back."""

    reach: int
    """Places of a crop along a side."""
    flip: bool

    @classmethod
    def of(cls, augment: AugmentSpec | None) -> Variants:
        """What this augmentation makes. None: every sample stays as it is."""
        return cls(1, False) if augment is None else cls(2 * augment.crop_padding + 1, augment.flip)

    @property
    def number(self) -> int:
        return self.reach**2 * (1 + self.flip)

    def keys(self, samples: Tensor, epoch: Epoch, places: slice) -> Tensor:
        """Which variant of which sample lies at these places of an epoch: (B,) int64 of (B,) samples."""
        if epoch.down is None or epoch.right is None or epoch.mirror is None:
            return samples
        keys = (samples * self.reach + epoch.down[places]) * self.reach + epoch.right[places]
        return 2 * keys + epoch.mirror[places] if self.flip else keys

    def epoch(self, keys: Tensor) -> Epoch:
        """An epoch of these variants: (B,) keys as `keys` gives them."""
        mirror = keys % 2 == 1 if self.flip else torch.zeros_like(keys, dtype=torch.bool)
        keys = keys // 2 if self.flip else keys
        return Epoch(keys // self.reach**2, keys // self.reach % self.reach, keys % self.reach, mirror)


def mix(*numbers: int) -> int:
    """One seed out of several numbers, so that neighbours have nothing in common."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


class Planned(ABC):
    """Batches as a plan says them: what a loader is, wherever its samples come from."""

    _plan: Plan

    @property
    def samples(self) -> int:
        return self._plan.samples

    @property
    def batch_size(self) -> int:
        return self._plan.batch_size

    def __len__(self) -> int:
        return self._plan.steps

    @property
    def variants(self) -> int | None:
        """How many different inputs a sample may become. None: no end of them, or it is not known."""
        return None

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """The batch of a step, 0 .. without end: always the same one."""

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(step) for step in range(len(self)))
