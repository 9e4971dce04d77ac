"""Samples of map-style datasets -> batches of tensors, in whatever process. It starts no processes and scales nothing.

What goes wrong while a sample is read comes back as a value, `Unreadable`: an exception that crosses processes would
bring its traceback along.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from extcon_cli.data.plan import mix
from extcon_cli.data.transforms import Views
from extcon_cli.data.trees import as_tree, stacked
from extcon_cli.errors import DataError, ExtconError


class Request(NamedTuple):
    """One batch to read."""

    part: int  # which of the datasets
    samples: list[int]  # into the dataset
    seed: int  # of the epoch
    training: bool = False  # at random, or as it is measured


class Found(NamedTuple):
    """A batch that was read."""

    x: Any  # inputs, a tree of (B, ...), or a list of B trees
    y: Any  # targets
    kept: list[int]  # which of the samples asked for, by their place in the request
    skipped: list[str]  # why others are left out, a line each


@dataclass(frozen=True)
class Unreadable:
    """Why a batch could not be read, in one line."""

    message: str


class Reading(Dataset[Found | Unreadable]):
    """Datasets of (input, target) as a dataset of batches, which are asked for by `Request`.

    The random numbers that reading a sample draws (from torch, numpy or random) depend on nothing but the epoch's
    seed and the sample.

    Args:
        datasets: map-style; of several splits.
        name: what messages call them.
        numbers: a target is a row of numbers, (K,) float32; else a tree of tensors.
        views: what is shown of pictures of any size; None: samples are used as they are.
        ragged: samples differ in size and are not stacked.
        skip: leave out samples that cannot be read.
    """

    def __init__(
        self,
        datasets: tuple[Any, ...],
        *,
        name: str,
        numbers: bool = False,
        views: Views | None = None,
        ragged: bool = False,
        skip: bool = False,
    ) -> None:
        self.datasets, self.name, self.numbers = datasets, name, numbers
        self.views, self.ragged, self.skip = views, ragged, skip

    def __getitem__(self, request: Request) -> Found | Unreadable:
        dataset, samples, kept, skipped = self.datasets[request.part], [], [], []
        for place, index in enumerate(request.samples):
            try:
                with seeded(mix(request.seed, index)):
                    samples.append(self._sample(dataset[index], request.training))
                kept.append(place)
            except Exception as error:  # a dataset may fail in any way
                skipped.append(f"{self._name(dataset, index)}: {reason(error)}")
                if not self.skip:
                    return Unreadable(skipped[0])
        if not samples:
            return Unreadable(f"no sample of a batch can be read; the first: {skipped[0]}")
        try:
            x, y = (list(column) if self.ragged else stacked(column) for column in zip(*samples, strict=True))
        except ExtconError as error:
            return Unreadable(f"{self.name}: {error}")
        return Found(x, y, kept, skipped)

    def _sample(self, found: Any, training: bool) -> tuple[Any, Any]:
        if not isinstance(found, tuple | list) or len(found) < 2:
            raise DataError(f"gives a {type(found).__name__}; a sample should be (input, target)")
        x, y = found[:2]
        if self.views is not None:
            x, y = self.views(x, y, training=training)
        return as_tree(x), row(y) if self.numbers else as_tree(y)

    def _name(self, dataset: Any, index: int) -> str:
        """The sample's file, where the dataset knows it as torchvision's do."""
        known = getattr(dataset, "samples", None)
        if isinstance(known, list) and index < len(known) and isinstance(known[index], tuple | list):
            return str(known[index][0])
        return f"sample {index} of {self.name}"


def row(target: Any) -> Tensor:  # -> (K,) float32
    """A target of a regression as a row of numbers."""
    try:
        return torch.as_tensor(target, dtype=torch.float32).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the target is a {type(target).__name__}, not numbers") from error


def reason(error: Exception) -> str:
    """What went wrong with a sample, in one line, with the user's line where there is one."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ExtconError):
        return text
    if type(error).__module__.startswith("PIL") or isinstance(error, OSError):
        return f"cannot be read: {text.split(' <_io')[0] or type(error).__name__}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) != Path(__file__)]
    where = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within: the global random states of torch (CPU), numpy and random are the seed's. Afterwards as before."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
