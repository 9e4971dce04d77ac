"""Where data lie: files and folders by name, and which of them are which split. It opens no file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from extcon_cli.errors import DataError

NAMES = {"train": ("train", "training"), "validation": ("val", "valid", "validation", "dev"), "test": ("test",)}
"""What a split's folder or file may be called."""


def expanded(text: str) -> Path:
    """The path, with `~` as the home folder (DataError: there is no such user)."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"{text}: there is no such home folder") from error


def folder_of(root: str | None, dataset: str, holds: str) -> Path:
    """The folder `data.root` (DataError: it is missing, or no folder; `holds` says what it should hold)."""
    if root is None:
        raise DataError(f"`data.root` is missing: dataset {dataset!r} needs the folder with {holds}")
    path = expanded(root)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder (data.root of dataset {dataset!r}); it should hold {holds}")
    return path


def one_file(root: str | None, suffixes: Sequence[str], dataset: str) -> Path:
    """The path `root`, or the only file with one of the suffixes in the folder `root`."""
    if root is None:
        raise DataError(f"`data.root` is missing: dataset {dataset!r} needs the file, or the folder it lies in")
    path = expanded(root)
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder (data.root of dataset {dataset!r})")
    found = [p for p in entries(path) if p.suffix.lower() in suffixes and p.is_file()]
    if len(found) != 1:
        names = ", ".join(p.name for p in found[:4]) or "none"
        raise DataError(f"{path}: should hold one {' or '.join(suffixes)} file, holds {names}; name it in data.root")
    return found[0]


def split_files(root: str | None, suffixes: Sequence[str], dataset: str) -> dict[str, Path]:
    """train.csv, val.csv and test.csv of a folder by split, where it has a train and a test file; else one file.

    One file alone is `train`.
    """
    if root is not None and (folder := expanded(root)).is_dir():
        found = {
            split: path
            for split, names in NAMES.items()
            for path in entries(folder)
            if path.stem.lower() in names and path.suffix.lower() in suffixes and path.is_file()
        }
        if {"train", "test"} <= set(found) or {"train", "validation"} <= set(found):
            return found
    return {"train": one_file(root, suffixes, dataset)}


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits, such as train/, val/ and test/; {} where there is no train/."""
    folders = {path.name.lower(): path for path in entries(root) if path.is_dir()}
    found = {split: folders[name] for split, names in NAMES.items() for name in names if name in folders}
    return found if "train" in found else {}


def entries(folder: Path) -> list[Path]:
    """What a folder holds, in order, without hidden files (DataError: it cannot be opened)."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def files_below(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """All files with one of the suffixes, in folders in it too, in order (DataError: a link leads in a circle)."""
    yield from _below(folder, suffixes, {os.path.realpath(folder)})


def _below(folder: Path, suffixes: Sequence[str], above: set[str]) -> Iterator[Path]:
    for path in entries(folder):
        if path.suffix.lower() in suffixes and not path.is_dir():
            yield path
        elif path.is_dir():
            real = os.path.realpath(path)
            if real in above:
                raise DataError(f"{path}: a link on the way leads back to {real}, which holds it; remove it")
            yield from _below(path, suffixes, above | {real})
