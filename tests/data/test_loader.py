"""Batches are a pure function of (seed, epoch, step), in memory and streamed alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from extcon_cli.data.labels import check_labels
from extcon_cli.data.loader import InMemoryLoader, StreamingLoader
from extcon_cli.data.reading import Reading
from extcon_cli.data.splits import Stream
from extcon_cli.data.workers import Reader
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import AugmentSpec, NormalizeSpec

X = torch.randint(256, (37, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(37)
AUGMENT = AugmentSpec(crop_padding=2, flip=True)
NORMALIZE = NormalizeSpec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


class Noisy(Dataset[tuple[Tensor, int]]):
    """Draws from torch's global random state, as many an augmenting dataset does."""

    def __len__(self) -> int:
        return 37

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(2) + index, index


def streaming(dataset: Dataset[Any], size: int, workers: int = 0, **others) -> StreamingLoader:
    reader = Reader(Reading((dataset,), name="the set"), workers=workers)
    return StreamingLoader(Stream(dataset, Y), size, reader=reader, shuffle=True, **others)


def in_memory(seed: int = 0, **others) -> InMemoryLoader:
    return InMemoryLoader(X, Y, 8, augment=AUGMENT, normalize=NORMALIZE, seed=seed, shuffle=True, **others)


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_any_step_can_be_asked_for_at_any_time():
    in_order = [in_memory().batch(step) for step in range(12)]
    asked = in_memory()
    for step in (11, 0, 5, 5, 4, 8):
        assert same(asked.batch(step), in_order[step])


def test_an_epoch_shows_no_sample_twice_and_whole_batches_only():
    loader = in_memory()
    seen = torch.cat([y for _, y in loader])
    assert len(loader) == 4
    assert len(seen) == 32
    assert len(seen.unique()) == 32


def test_epochs_and_seeds_differ():
    first, second = in_memory(), in_memory(seed=1)
    assert not torch.equal(first.batch(0)[1], first.batch(len(first))[1])
    assert not torch.equal(first.batch(0)[1], second.batch(0)[1])


def test_left_out_samples_change_from_epoch_to_epoch():
    loader = in_memory()
    seen = torch.cat([loader.batch(step)[1] for step in range(5 * len(loader))])
    assert len(seen.unique()) == 37


def test_measuring_shows_every_sample_in_order_without_changes():
    loader = InMemoryLoader(X, Y, 8)
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(y, Y)
    assert torch.equal(x, X.float() / 255)


def test_normalises_as_the_formula():
    x, _ = InMemoryLoader(X, Y, 37, normalize=NORMALIZE).batch(0)
    mean, std = torch.tensor(NORMALIZE.mean).view(3, 1, 1), torch.tensor(NORMALIZE.std).view(3, 1, 1)
    torch.testing.assert_close(x, (X.float() / 255 - mean) / std)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    in_memory().batch(3)
    StreamingLoader(Stream(Noisy(), Y), 8, shuffle=True).batch(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_larger_than_the_set_is_the_set():
    x, y = InMemoryLoader(X, Y, 1000, shuffle=True).batch(5)
    assert len(x) == 37
    assert torch.equal(y.sort().values, Y)


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_gives_what_memory_gives(workers):
    streamed = streaming(TensorDataset(X, Y), 8, workers, augment=AUGMENT, normalize=NORMALIZE, seed=3)
    memory = in_memory(seed=3)
    for step in (0, 1, 2, 3, 4, 9, 2):
        assert same(streamed.batch(step), memory.batch(step))


def test_random_datasets_repeat_themselves_by_seed_epoch_and_sample(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # a worker imports this file by its name

    def batch(step: int, workers: int) -> tuple[Tensor, Tensor]:
        return streaming(Noisy(), 8, workers, seed=1).batch(step)

    assert same(batch(2, 0), batch(2, 2))
    everything = StreamingLoader(Stream(Noisy(), Y), 37, seed=1, shuffle=True)
    (first, names), (second, others) = everything.batch(0), everything.batch(1)
    assert not torch.equal(first[names.argsort()], second[others.argsort()])  # new noise in a new epoch


def test_streaming_refuses_labels_out_of_range():
    with pytest.raises(DataError, match="labels should run from 0 to 9"):
        StreamingLoader(Stream(Noisy(), Y), 37, check=partial(check_labels, classes=10)).batch(0)


def test_augmenting_a_table_is_refused():
    with pytest.raises(DataError, match="needs images"):
        InMemoryLoader(torch.zeros(4, 3), torch.zeros(4), 2, augment=AUGMENT)
