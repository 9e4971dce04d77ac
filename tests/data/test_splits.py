"""Which part of the data is trained on, selected on and measured on: as the folders and files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from extcon_cli.data.datasets import Data, open_data
from extcon_cli.data.kinds import kind
from extcon_cli.data.splits import Arrays
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec


def table(path: Path, first: int, rows: int) -> None:
    lines = [f"{first + i},{i % 2}" for i in range(rows)]
    path.write_text("a,label\n" + "\n".join(lines) + "\n")


def values(data: Data, split: str) -> set[float]:
    part = data.split(split)
    assert isinstance(part, Arrays)
    return set(part.x[:, 0].tolist())


def pictures(folder: Path, number: int) -> None:
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for i in range(number):
            Image.new("RGB", (9, 9), (i, i, i)).save(folder / label / f"{i}.png")


def opened(root: Path, dataset: str, **others: object) -> Data:
    spec = DataSpec(dataset=dataset, root=str(root), workers=0, **others)  # type: ignore[arg-type]
    return open_data(spec, "classification", input_shape=(3, 8, 8) if dataset == "image_folder" else None)


def test_three_tables_are_three_splits(tmp_path: Path) -> None:
    for name, first, rows in (("train", 0, 20), ("val", 100, 5), ("test", 200, 7)):
        table(tmp_path / f"{name}.csv", first, rows)
    data = opened(tmp_path, "csv", validation=0.5)
    assert (values(data, "train"), values(data, "validation")) == (set(range(20)), set(range(100, 105)))
    assert values(data, "test") == set(range(200, 207))
    assert not data.test_is_cut
    assert kind(str(tmp_path)).why.startswith("train.csv and val.csv and test.csv: ")


def test_two_tables_leave_the_validation_to_be_cut(tmp_path: Path) -> None:
    for name, first in (("train", 0), ("test", 200)):
        table(tmp_path / f"{name}.csv", first, 20)
    data = opened(tmp_path, "csv")
    assert len(values(data, "validation")) == 2
    assert values(data, "train") | values(data, "validation") == set(range(20))
    assert not data.test_is_cut


def test_tables_with_other_columns_are_refused(tmp_path: Path) -> None:
    table(tmp_path / "train.csv", 0, 4)
    (tmp_path / "test.csv").write_text("b,label\n1,0\n2,1\n")
    with pytest.raises(DataError, match=r"test.csv: its columns differ from those of train.csv: a"):
        opened(tmp_path, "csv")


def test_words_in_one_table_are_words_in_all(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,label\n1,0\n2,cat\n3,0\n4,cat\n")
    (tmp_path / "test.csv").write_text("a,label\n1,0\n2,0\n")
    data = opened(tmp_path, "csv", validation=0.0)
    assert data.class_names == ("0", "cat")
    assert isinstance(data.test, Arrays)
    assert data.test.y.tolist() == [0, 0]


def test_one_table_has_its_test_cut_off(tmp_path: Path) -> None:
    table(tmp_path / "mine.csv", 0, 20)
    data = opened(tmp_path / "mine.csv", "csv")
    assert data.test_is_cut
    assert len(values(data, "test")) == 4
    assert not values(data, "test") & (values(data, "train") | values(data, "validation"))


@pytest.mark.parametrize(
    ("parts", "lengths", "cut"),
    [
        (("train", "val", "test"), (8, 8, 8), False),
        (("train", "valid", "test"), (8, 8, 8), False),
        (("train", "test"), (6, 2, 8), False),
        (("train", "val"), (6, 2, 8), False),  # a folder without a test/ is measured on val/
        ((), (5, 1, 2), True),
        (("train",), (5, 1, 2), True),
    ],
)
def test_folders_of_pictures_are_used_as_named(
    tmp_path: Path, parts: tuple[str, ...], lengths: tuple[int, ...], cut: bool
) -> None:
    for part in parts or (".",):
        pictures(tmp_path / part, 4)
    data = opened(tmp_path, "image_folder", validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == lengths
    assert data.test_is_cut is cut
    assert data.classes == 2
    found = kind(str(tmp_path))
    assert found.dataset == "image_folder"
    assert found.why.endswith("no test part") is cut


def test_arrays_with_a_validation_part(tmp_path: Path) -> None:
    x, y = np.arange(12, dtype=np.float32)[:, None], np.arange(12) % 2
    parts = {"train": slice(6), "val": slice(6, 9), "test": slice(9, 12)}
    np.savez(tmp_path / "d.npz", **{f"{n}_{k}": a[v] for k, v in parts.items() for n, a in (("x", x), ("y", y))})
    data = opened(tmp_path, "arrays")
    assert torch.equal(data.validation.x[:, 0], torch.arange(6.0, 9.0))  # type: ignore[union-attr]
    assert len(data.train) == 6
