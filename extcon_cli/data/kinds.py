"""What kind of data a path holds: which dataset reads it, and for which task. Looks at names and headers only.

It needs no torch, so that a command can ask before all work. Whether the data are sound is for their readers.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import Task

BUNDLED: dict[str, Task] = {"digits": "classification", "eggholder": "regression"}
MOST_CLASSES = 100
"""A column with more whole numbers than this holds quantities, not classes."""
ROWS = 10_000
"""Rows of a table that are looked at."""
IN_TORCHVISION_S_FOLDERS = {
    "cifar-10-batches-py": "cifar10",
    "cifar-100-python": "cifar100",
    "FashionMNIST": "fashionmnist",
    "MNIST": "mnist",
}


@dataclass(frozen=True)
class Kind:
    """How a recipe reads the data."""

    dataset: str
    root: str | None
    task: Task | None
    """None: nothing tells."""
    why: str
    """What was seen."""


def kind(path: str) -> Kind:
    """The kind of the data at `path`, or of a bundled set by its name.

    Raises:
        DataError: nothing is there, or nothing that a dataset of extcon reads.
    """
    if path in BUNDLED and not Path(path).exists():
        return Kind(path, None, BUNDLED[path], "bundled with extcon")
    if ".py:" in path:
        return Kind(path, None, None, "a function of yours")
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            return _folder(place)
        if not place.is_file():
            raise DataError(f"{path}: no such file or folder of data")
        suffix = place.suffix.lower()
        if suffix == ".csv":
            task, why = _column(place)
            return Kind("csv", str(place), task, why)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if suffix in (".npz", ".safetensors"):
        return Kind("arrays", str(place), None, "named arrays")
    raise DataError(f"{path}: not a kind of data that is known: give an .npz, .safetensors or .csv file, or a folder")


def _folder(place: Path) -> Kind:
    inside = {entry.name for entry in place.iterdir() if entry.is_dir()}
    for name, dataset in IN_TORCHVISION_S_FOLDERS.items():
        if name in inside:
            return Kind(dataset, str(place), "classification", f"it holds {name}/")
    test = next((name for name in ("test", "val") if name in inside), None)
    if "train" in inside and test is not None:
        classes = sum(entry.is_dir() for entry in (place / "train").iterdir())
        if classes:
            why = f"train/ and {test}/ with {classes} folders, one for each class"
            return Kind("image_folder", str(place), "classification", why)
    raise DataError(
        f"{place}: should hold train/ and test/ (or val/), each with a folder of pictures for each class"
        + (f"; it holds {', '.join(sorted(inside)[:4])}" if inside else "")
    )


def _column(path: Path) -> tuple[Task | None, str]:
    """What the target column of a table tells about the task."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            at = header.index("target") if "target" in header else len(header) - 1
            cells = [row[at].strip() for row, _ in zip(rows, range(ROWS), strict=False) if len(row) == len(header)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    if not header or not cells:
        raise DataError(f"{path}: should hold a header, two rows and two columns at the least")
    different = len(set(cells))
    about = f"the column {header[at]!r} is the target, with {different} different values"
    if all(cell.lstrip("+-").isdigit() for cell in cells) and different > MOST_CLASSES:
        return "regression", about
    if any(not cell.lstrip("+-").isdigit() and _is_number(cell) for cell in cells):
        return "regression", about
    return "classification", about


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
