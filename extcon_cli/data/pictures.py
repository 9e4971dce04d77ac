"""Folders of pictures, one folder a class. Pictures are opened while they are used."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset

from extcon_cli.data.paths import entries, files_below, folder_of, split_folders
from extcon_cli.data.splits import Source, Stream
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
HOLDS = "train/ and test/ (or val/), each with a folder for each class; or a folder for each class alone"


def image_folder(spec: DataSpec, task: str) -> Source:
    """root/train/CLASS/*.jpg, with root/val and root/test; or root/CLASS/*.jpg, of which a random part is the test.

    Without a test/ it is val/ that is measured in its place.
    """
    root = folder_of(spec.root, spec.dataset, HOLDS)
    found = split_folders(root)
    found = found or {"train": root}
    parts = {split: Pictures(folder) for split, folder in found.items()}
    classes = parts["train"].classes
    for split, part in parts.items():
        if part.classes != classes:
            odd = sorted(set(classes) ^ set(part.classes))
            other = found[split].name
            raise DataError(f"{root.absolute()}: train and {other} differ in their classes: {', '.join(odd[:4])}")
    return Source.of({split: part.split() for split, part in parts.items()}, tuple(classes), pictures=True)


class Pictures(Dataset[tuple[Image.Image, int]]):
    """folder/CLASS/*.jpg as (picture, class number). DataError: there are no classes, or one has no picture."""

    def __init__(self, folder: Path) -> None:
        folders = [path for path in entries(folder) if path.is_dir()]
        if not folders:
            raise DataError(f"{folder.absolute()}: should hold {HOLDS}")
        self.classes = [path.name for path in folders]
        self.samples: list[tuple[str, int]] = []
        for number, path in enumerate(folders):
            files = [(str(file), number) for file in files_below(path, SUFFIXES)]
            if not files:
                raise DataError(f"{path}: holds no picture ({', '.join(SUFFIXES)})")
            self.samples += files

    def split(self) -> Stream:
        """All of them."""
        return Stream(self, torch.arange(len(self)))

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return open_picture(path), label

    def __len__(self) -> int:
        return len(self.samples)


def check_regular(path: str | Path) -> None:
    """OSError where there is something else than a file: a pipe would be waited for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("not a regular file")


def open_picture(path: str | Path) -> Image.Image:
    """The picture in red, green and blue. OSError: it is cut off, no picture, or too large."""
    check_regular(path)
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except Image.DecompressionBombError as error:
        raise OSError(f"too large: {error}") from error
    except ImportError as error:  # Ultralytics replaces Image.open, and asks for a reader more
        raise OSError(f"cannot identify image file {str(path)!r}") from error
    except (SyntaxError, ValueError, EOFError) as error:  # what PIL's readers of odd formats let through
        raise OSError(f"no picture: {error}") from error
