"""Batches of a set that lies on the device as a whole. It reads nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from extcon_cli.data.plan import Batch, Change, Plan, Planned, Variants
from extcon_cli.data.trees import length, mapped
from extcon_cli.errors import DataError
from extcon_cli.processes import WHOLE, Share
from extcon_cli.recipe.schema import AugmentSpec, NormalizeSpec


class InMemoryLoader(Planned):
    """Batches of a set that lies on the device as a whole, images as uint8 until they are used.

    Args:
        x: inputs, a tree of (N, ...). uint8: scaled to 0..1, then normalised, batch by batch.
        y: targets, a tree of (N, ...).
        batch_size: samples in a batch; all samples where there are fewer.
        augment: random crop and flip of each image, None: none.
        normalize: (x - mean) / std along dimension 1, None: none.
        seed: of the order and the augmentation.
        shuffle: a new order for each epoch, and whole batches only; else as they lie, the last batch shorter.
        change: of whole batches, None: none.
        share: of each batch, that is given.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        augment: AugmentSpec | None = None,
        normalize: NormalizeSpec | None = None,
        seed: int = 0,
        shuffle: bool = False,
        change: Change | None = None,
        share: Share = WHOLE,
    ) -> None:
        if augment and (augment.crop_padding or augment.flip) and not (isinstance(x, Tensor) and x.dim() == 4):
            kind = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise DataError(f"data.augment needs images (N, C, H, W); these inputs are {kind}")
        self._plan = Plan(
            length(x),
            batch_size,
            device=device,
            augment=augment,
            normalize=normalize,
            seed=seed,
            shuffle=shuffle,
            change=change,
            share=share,
        )
        self._x, self._y = (mapped(tree, lambda leaf: leaf.to(device)) for tree in (x, y))

    @property
    def variants(self) -> int | None:
        return None if self._plan.change is not None else self._variants.number

    @property
    def _variants(self) -> Variants:
        return Variants.of(self._plan.augment)

    def keys(self, step: int) -> Tensor:
        """What each sample of this step's batch is made of, (B,) int64 below samples * variants: equal keys, equal
        inputs."""
        number, index = divmod(step, self._plan.steps)
        epoch, part = self._plan.epoch(number), self._plan.places(index)
        every = torch.arange(self.samples, device=self._plan.device) if epoch.order is None else epoch.order
        return self._variants.keys(every[part], epoch, part)

    def of_keys(self, keys: Tensor) -> Batch:
        """A batch of what these keys (B,) stand for."""
        epoch = self._variants.epoch(keys)
        x, y = (mapped(tree, lambda leaf: leaf[epoch.order]) for tree in (self._x, self._y))
        return self._plan.finish(x, y, epoch, slice(0, len(keys)))

    def batch(self, step: int) -> Batch:
        number, index = divmod(step, self._plan.steps)
        epoch = self._plan.epoch(number)
        cut = self._plan.change is not None and self._plan.share.number > 1  # a change is made of the whole batch
        part = self._plan.places(index, WHOLE if cut else None)
        chosen: Any = part if epoch.order is None else epoch.order[part]
        x, y = (mapped(tree, lambda leaf: leaf[chosen]) for tree in (self._x, self._y))
        batch = self._plan.finish(x, y, epoch, part, step)
        own = self._plan.share.of(part.stop - part.start)
        return mapped(batch, lambda leaf: leaf[own]) if cut else batch
