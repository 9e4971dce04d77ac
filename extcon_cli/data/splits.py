"""Where samples lie: `Arrays` in memory, `Stream` read one by one. Values only; they make no batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from extcon_cli.data.trees import length, mapped


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
    """A dataset as its reader finds it."""

    train: Split
    test: Split
    class_names: tuple[str, ...] | None = None
    classes: int | None = None
    """Where they have no names. None: the reader does not know."""
    validation: Split | None = None
    """The data's own. None: it is cut from the training part."""
    test_is_cut: bool = False
    """The test part was cut at random from data that have none: a model may have been trained on its rows."""
    pictures: bool = False
    """Samples are pictures of any size, to be brought to the size of the model's input."""
    normalize: bool = True
    """May the inputs be normalised? Not so for models that do it themselves."""

    @classmethod
    def of(
        cls,
        parts: Mapping[str, Split],  # by `train`, `validation`, `test`
        class_names: tuple[str, ...] | None = None,
        *,
        classes: int | None = None,
        pictures: bool = False,
        normalize: bool = True,
    ) -> Source:
        """Of what was found: without a test part the validation part stands in; without both it is cut off."""
        train, test, validation = (parts.get(name) for name in ("train", "test", "validation"))
        assert train is not None, "a reader finds training data or refuses"
        cut = test is None and validation is None
        if test is None:
            test, validation = validation, None
        if test is None:
            train, test = cut_test(train)
        return cls(train, test, class_names, classes, validation, cut, pictures, normalize)


TEST_SHARE, TEST_SEED = 0.2, 20_250_714
"""What is cut off for the test where data know no split of their own; the same on every machine."""


def cut_test(whole: Split) -> tuple[Split, Split]:
    """Samples without a split -> (train, test), at random and always the same."""
    stays, aside = held_out(len(whole), TEST_SHARE, seed=TEST_SEED)
    return whole.select(stays), whole.select(aside)


def held_out(count: int, share: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Cut `count` samples at random into (those that stay, those held out), by a seed of its own.

    Both come in random order. At least one sample is on each side where 0 < share and count > 1.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    aside = min(max(round(share * count), 1), count - 1) if share > 0 and count > 1 else 0
    return order[aside:], order[:aside]
