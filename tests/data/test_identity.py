"""Changed data are noticed: files by their content, folders by names, sizes and times."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from extcon_cli.data.identity import identity
from extcon_cli.recipe.schema import DataSpec


def folder(root: Path) -> Path:
    for name in ("train/a/1.png", "train/a/2.png", "test/a/3.png"):
        path = root / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root / "pictures"


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "train/a/1.png").write_bytes(b"longer than before"),
        lambda root: (root / "train/a/1.png").rename(root / "train/a/4.png"),
        lambda root: (root / "train/a/1.png").unlink(),
        lambda root: (root / "train/b").symlink_to(root / "test/a"),
        lambda root: os.utime(root / "test/a/3.png", ns=(1, 1)),
    ],
)
def test_a_changed_folder_is_another(tmp_path: Path, change: Callable[[Path], object]) -> None:
    spec = DataSpec(dataset="image_folder", root=str(folder(tmp_path)))
    before = identity(spec)
    assert identity(spec) == before
    change(tmp_path / "pictures")
    assert identity(spec) != before


def test_of_a_file_the_content_counts(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,target\n1,2\n")
    spec = DataSpec(dataset="csv", root=str(path))
    before = identity(spec)
    os.utime(path, ns=(1, 1))
    assert identity(spec) == before
    path.write_text("a,target\n1,3\n")
    assert identity(spec) != before


def test_what_lies_beside_a_set_of_torchvision_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/data_batch_1").write_bytes(b"1")
    spec = DataSpec(dataset="cifar10", root=str(tmp_path))
    before = identity(spec)
    (tmp_path / "other").write_bytes(b"2")
    assert identity(spec) == before
    (tmp_path / "cifar-10-batches-py/data_batch_2").write_bytes(b"2")
    assert identity(spec) != before


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "train/loop").symlink_to(root)
    assert identity(DataSpec(dataset="image_folder", root=str(root)))


def test_own_code_counts_and_bundled_data_have_a_name(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def data(): ...")
    spec = DataSpec(dataset=f"{code}:data")
    before = identity(spec)
    code.write_text("def data(): return 1")
    assert identity(spec) != before
    assert identity(DataSpec(dataset="digits")) != identity(DataSpec(dataset="eggholder"))


def test_what_lies_beside_tables_does_not_count(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("a,target\n1,2\n")
    spec = DataSpec(dataset="csv", root=str(tmp_path))
    before = identity(spec)
    (tmp_path / "out.safetensors.run").mkdir()
    assert identity(spec) == before
    (tmp_path / "test.csv").write_text("a,target\n1,3\n")
    assert identity(spec) != before
