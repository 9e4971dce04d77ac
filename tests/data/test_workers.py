"""Worker processes of the reader: kept between passes, shared by the splits; what goes wrong in them is one line."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from extcon_cli.data.datasets import Data, open_data
from extcon_cli.data.reading import Reading, Request
from extcon_cli.data.workers import Reader
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec

MINE = """
from torch.utils.data import Dataset
import torch, os


class Counted(Dataset):
    classes = ["a", "b"]

    def __len__(self):
        return 36

    def __getitem__(self, index):
        if index == 39:
            raise ValueError("the shelf\\nis empty")
        if index == 38:
            os._exit(1)
        return torch.tensor([float(index), os.getpid()], dtype=torch.float64), index % 2


def sets():
    return Counted(), Counted()


def local():
    class Here(Counted):
        pass

    return Here(), Here()
"""


def opened(folder: Path, function: str, **others: Any) -> Data:
    (folder / "mine.py").write_text(MINE)
    spec = DataSpec(dataset=f"{folder}/mine.py:{function}", batch_size=4, eval_batch_size=4, **others)
    return open_data(spec, "classification", trust_code=True)


def test_one_set_of_workers_for_all_passes(tmp_path: Path) -> None:
    data = opened(tmp_path, "sets", workers=2)
    train, test = data.train_loader(device="cpu", seed=0), data.eval_loader("test", device="cpu")
    processes: set[float] = set()
    for loader in (train, test, train):
        for step in range(3):  # a pass that is not finished, and one after another
            processes |= set(loader.batch(step)[0][:, 1].tolist())
    assert len(processes) == 2
    assert multiprocessing.current_process().pid not in processes


def test_passes_that_interrupt_each_other_lose_nothing(tmp_path: Path) -> None:
    data = opened(tmp_path, "sets", workers=2)
    first, second = (data.eval_loader(split, device="cpu") for split in ("test", "test"))
    for step in range(4):
        for loader in (first, second):
            assert loader.batch(step)[0][:, 0].tolist() == [4.0 * step + i for i in range(4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_dataset_raises_is_one_line(tmp_path: Path, workers: int) -> None:
    data = opened(tmp_path, "sets", workers=workers)
    assert data.reader is not None
    with pytest.raises(DataError) as error:
        next(data.reader.read([Request(0, [39], 0)]))
    where = f"sample 39 of {tmp_path}/mine.py:sets"
    assert str(error.value) == f"{where}: ValueError: the shelf is empty (line 14 of mine.py)"


def test_a_worker_that_dies_is_one_line(tmp_path: Path) -> None:
    data = opened(tmp_path, "sets", workers=2)
    assert data.reader is not None
    with pytest.raises(DataError, match=r"a process that read data was killed.*data.workers: 0"):
        list(data.reader.read([Request(0, [38], 0)]))


def test_datasets_that_no_process_can_be_given_are_read_here_and_it_is_said(tmp_path: Path) -> None:
    data = opened(tmp_path, "local", workers=2)
    assert data.reader is not None
    assert data.reader.workers == 0
    assert "is read in this process: its datasets cannot be sent to workers" in data.notes[0]
    assert opened(tmp_path, "sets", workers=2).notes == ()


class Ragged(Dataset[Any]):
    """Samples of growing length."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(index + 1), 0


def test_samples_of_several_sizes_are_one_line() -> None:
    with pytest.raises(DataError, match=r"mine: samples of one batch differ in shape: \[1\] and \[2\]"):
        next(Reader(Reading((Ragged(),), name="mine")).read([Request(0, [0, 1], 0)]))
