"""What a training loop or a measurement knows about data: batches as a pure function of the step.

`InMemoryLoader` keeps a whole set on the device; `StreamingLoader` reads samples while they are used. Both shuffle and
augment on their own: the epoch's order, crops and flips are drawn at its first step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from extcon_cli.data.in_memory import InMemoryLoader
from extcon_cli.data.plan import Batch
from extcon_cli.data.streaming import StreamingLoader

__all__ = ["Batch", "InMemoryLoader", "Loader", "StreamingLoader"]


class Loader(Protocol):
    """Batches of one split."""

    @property
    def samples(self) -> int:
        """Samples in the set; a shuffled epoch may leave out the last few, that fill no batch."""

    @property
    def batch_size(self) -> int:
        """Samples in a batch; of several processes, in all their parts of it together."""

    def __len__(self) -> int:
        """Steps in an epoch."""

    def batch(self, step: int) -> Batch:
        """The batch of this step, counted from the start of the run."""

    def __iter__(self) -> Iterator[Batch]:
        """One epoch, the first."""
