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

from extcon_cli.data.plan import Batch, mix
from extcon_cli.data.trees import as_tree, stacked
from extcon_cli.errors import DataError, ExtconError


class Request(NamedTuple):
    """One batch to read."""

    part: int  # which of the datasets
    samples: list[int]  # into the dataset
    seed: int  # of the epoch


@dataclass(frozen=True)
class Unreadable:
    """Why a batch could not be read, in one line."""

    message: str


class Reading(Dataset[Batch | Unreadable]):
    """Datasets of (input, target) as a dataset of batches, which are asked for by `Request`.

    The random numbers that reading a sample draws (from torch, numpy or random) depend on nothing but the epoch's
    seed and the sample.

    Args:
        datasets: map-style; of several splits.
        name: what messages call them.
        regression: a target is a row of numbers, (K,) float32; else a tree of tensors.
    """

    def __init__(self, datasets: tuple[Any, ...], *, name: str, regression: bool = False) -> None:
        self.datasets, self.name, self.regression = datasets, name, regression

    def __getitem__(self, request: Request) -> Batch | Unreadable:
        dataset, samples = self.datasets[request.part], []
        for index in request.samples:
            try:
                with seeded(mix(request.seed, index)):
                    samples.append(self._sample(dataset[index]))
            except Exception as error:  # a dataset may fail in any way
                return Unreadable(f"{self._name(dataset, index)}: {reason(error)}")
        try:
            x, y = (stacked(column) for column in zip(*samples, strict=True))
        except ExtconError as error:
            return Unreadable(f"{self.name}: {error}")
        return x, y

    def _sample(self, found: Any) -> tuple[Any, Any]:
        if not isinstance(found, tuple | list) or len(found) < 2:
            raise DataError(f"gives a {type(found).__name__}; a sample should be (input, target)")
        x, y = found[:2]
        return as_tree(x), row(y) if self.regression else as_tree(y)

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
