"""Which kind of data a path holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from extcon_cli.data.kinds import kind
from extcon_cli.errors import DataError


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
    found = kind(str(tmp_path))
    assert (found.dataset, found.root, found.task) == ("image_folder", str(tmp_path), "classification")
    assert found.why == "train/ and val/ with 2 folders, one for each class"


@pytest.mark.parametrize(
    ("column", "task"),
    [
        (["1", "0", "1"], "classification"),
        (["cat", "dog", "cat"], "classification"),
        (["0.5", "1", "2"], "regression"),
        ([str(n) for n in range(200)], "regression"),
    ],
)
def test_the_target_column_tells_the_task(tmp_path: Path, column: list[str], task: str) -> None:
    (tmp_path / "t.csv").write_text("target,x\n" + "".join(f"{cell},3\n" for cell in column))
    found = kind(str(tmp_path / "t.csv"))
    assert (found.dataset, found.task) == ("csv", task)


def test_others() -> None:
    assert kind("digits").task == "classification"
    assert kind("eggholder").task == "regression"
    assert kind("mine.py:make").dataset == "mine.py:make"


@pytest.mark.parametrize(
    ("name", "says"), [("nowhere", "no such file"), ("x.pdf", "not a kind of data"), ("empty", "should hold train/")]
)
def test_what_is_no_data(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "x.pdf").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=says):
        kind(str(tmp_path / name))


def test_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(DataError, match="should hold a header"):
        kind(str(tmp_path / "t.csv"))
