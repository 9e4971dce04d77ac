"""What kind of data a path holds: which dataset reads it, and for which task. Looks at names and headers only.

It needs no torch, so that a command can ask before all work. Whether the data are sound is for their readers.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from extcon_cli.data.paths import entries, expanded, split_files, split_folders
from extcon_cli.errors import DataError
from extcon_cli.json_text import parse_json
from extcon_cli.recipe.schema import Task

PICTURES = ("image_folder", "imagenet", "segmentation_folder", "coco", "saved")
"""Datasets of pictures that are resized to the model's input."""
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
    place = expanded(path)
    try:
        if place.is_dir():
            return _folder(place)
        if not place.is_file():
            raise DataError(f"{path}: no such file or folder of data")
        return _file(place, place)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _file(place: Path, root: Path) -> Kind:
    """The kind of a file; `root` is what the recipe names."""
    suffix = place.suffix.lower()
    if suffix == ".csv":
        task, why = _column(place)
        return Kind("csv", str(root), task, why)
    if suffix in (".npz", ".safetensors"):
        return Kind("arrays", str(root), None, "named arrays")
    if suffix == ".jsonl" and _labelled(place):
        return Kind("text", str(root), "classification", "lines of text with labels")
    if suffix in (".txt", ".jsonl"):
        return Kind("text", str(root), "causal_lm", "text without labels; masked_lm for models such as BERT")
    known = ".npz, .safetensors, .csv, .txt or .jsonl file"
    raise DataError(f"{root}: not a kind of data that is known: give an {known}, or a folder")


def _folder(place: Path) -> Kind:
    inside = {path.name for path in entries(place) if path.is_dir()}
    names = {path.name for path in entries(place)}
    for name, dataset in IN_TORCHVISION_S_FOLDERS.items():
        if name in inside:
            return Kind(dataset, str(place), "classification", f"it holds {name}/")
    if {"dataset_dict.json", "state.json"} & names:
        return Kind("saved", str(place), None, "saved by the library datasets")
    if found := _files(place):
        return found
    splits = split_folders(place)
    first = splits.get("train", place)
    shown = " and ".join(f"{path.name}/" for path in splits.values())
    held = {path.name for path in entries(first) if path.is_dir()}
    if "annotations" in inside or any(path.suffix == ".json" for path in entries(first)):
        return Kind("coco", str(place), "detection", "pictures with a .json of boxes")
    if {"images", "masks"} <= held | inside:
        return Kind("segmentation_folder", str(place), "segmentation", "images/ and masks/")
    if held:
        where = f"{shown} with" if splits else "it holds"
        why = f"{where} {len(held)} folders, one for each class" + ("" if len(splits) > 1 else ", and no test part")
        return Kind("image_folder", str(place), "classification", why)
    raise DataError(
        f"{place}: should hold train/ and test/ (or val/), each with a folder of pictures for each class"
        + (f"; it holds {', '.join(sorted(inside)[:4])}" if inside else "")
    )


def _files(place: Path) -> Kind | None:
    """The kind of a folder with one file of data, or with train and test files of one kind; None: it is no such."""
    for suffixes in ((".csv",), (".txt", ".jsonl"), (".npz", ".safetensors")):
        if any(path.suffix.lower() in suffixes for path in entries(place) if path.is_file()):
            files = split_files(str(place), suffixes, "--data") if suffixes[0] != ".npz" else {}
            found = files.get("train") or next(path for path in entries(place) if path.suffix.lower() in suffixes)
            kind = _file(found, place)
            names = " and ".join(path.name for path in files.values())
            return Kind(kind.dataset, kind.root, kind.task, f"{names or found.name}: {kind.why}")
    return None


def _labelled(path: Path) -> bool:
    """Has the first line of a .jsonl file a label?"""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        try:
            first = parse_json(file.readline(1_000_000))
        except ValueError:
            return False
    return isinstance(first, dict) and "label" in first


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
    if all(map(whole_number, cells)) and different > MOST_CLASSES:
        return "regression", about
    if any(not whole_number(cell) and _is_number(cell) for cell in cells):
        return "regression", about
    return "classification", about


def whole_number(cell: str) -> bool:
    """Is it a whole number, in the digits 0 to 9? (`²` is a digit to str.isdigit, and no number to int)"""
    digits = cell[1:] if cell[:1] in ("+", "-") else cell
    return digits.isascii() and digits.isdigit() and len(digits) <= 4000


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
