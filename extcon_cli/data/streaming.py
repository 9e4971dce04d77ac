"""Batches of a set that is read while it is used. The files are read by `Reader`, the rest is here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from extcon_cli.data.plan import Batch, Change, Plan, Planned, mix
from extcon_cli.data.reading import Found, Reading, Request
from extcon_cli.data.splits import Stream
from extcon_cli.data.trees import mapped
from extcon_cli.data.workers import Reader
from extcon_cli.processes import WHOLE, Share
from extcon_cli.recipe.schema import AugmentSpec, NormalizeSpec


class StreamingLoader(Planned):
    """Batches of a set that is read while it is used.

    A dataset that draws random numbers draws the same ones for the same (seed, epoch, sample).
    Asking for the next step goes on reading; asking for another one starts there anew.

    Args:
        reader: reads the split's dataset. None: one of its own, in this process.
        check: refuses targets (DataError), as they are read. None: takes them all.
        share: of each batch, that is read and given; a `change` is made of it alone.
    """

    def __init__(
        self,
        split: Stream,
        batch_size: int,
        *,
        reader: Reader | None = None,
        device: torch.device | str = "cpu",
        augment: AugmentSpec | None = None,
        normalize: NormalizeSpec | None = None,
        seed: int = 0,
        shuffle: bool = False,
        change: Change | None = None,
        check: Callable[[Any], None] | None = None,
        share: Share = WHOLE,
    ) -> None:
        self._plan = Plan(
            len(split),
            batch_size,
            device=device,
            augment=augment,
            normalize=normalize,
            seed=seed,
            shuffle=shuffle,
            change=change,
            share=share,
        )
        self._split, self._check = split, check
        self._reader = reader or Reader(Reading((split.dataset,), name="the dataset"))
        self._part = self._reader.part(split.dataset)
        self._reading: Iterator[Found] | None = None
        self._next = -1

    def batch(self, step: int) -> Batch:
        number, index = divmod(step, self._plan.steps)
        epoch = self._plan.epoch(number)
        if self._reading is None or step != self._next or index == 0:
            requests = self._requests(number, index, epoch.order)
            self._reading = self._reader.read(requests, pin=self._plan.device.type == "cuda")
        self._next = step + 1
        found = next(self._reading)
        if self._check is not None:
            self._check(found.y)
        x, y = (mapped(tree, lambda leaf: leaf.to(self._plan.device, non_blocking=True)) for tree in (found.x, found.y))
        places = self._plan.places(index).start + torch.tensor(found.kept, device=self._plan.device)
        share = self._plan.share
        return self._plan.finish(x, y, epoch, places, step, *([share.place] if share.number > 1 else []))

    def _requests(self, number: int, index: int, order: Tensor | None) -> list[Request]:
        """What is left of an epoch from its batch `index` on."""
        seed = mix(self._plan.seed, number)
        samples = self._split.indices if order is None else self._split.indices[order.cpu()]
        parts = (samples[self._plan.places(i)].tolist() for i in range(index, self._plan.steps))
        return [Request(self._part, part, seed, training=self._plan.shuffle) for part in parts]
