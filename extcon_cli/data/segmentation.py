"""Pictures with a mask each: a picture of class numbers, found by its name. They are opened while they are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from extcon_cli.data.paths import files_below, folder_of, split_folders
from extcon_cli.data.pictures import SUFFIXES, check_regular, open_picture
from extcon_cli.data.splits import Source, Stream
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec

HOLDS = "train/ and test/ (or val/), each with images/ and masks/ of the same names; or images/ and masks/ alone"


def segmentation_folder(spec: DataSpec, task: str) -> Source:
    """root/train/images/a.jpg with root/train/masks/a.png, and so val/ and test/.

    root/images/train with root/masks/train is taken as well; of root/images alone a random part is the test.
    A mask holds a class number in each pixel; 255 does not count.
    """
    if task != "segmentation":
        raise DataError(f"dataset {spec.dataset!r} is for a segmentation: set `task: segmentation`")
    root = folder_of(spec.root, spec.dataset, HOLDS)
    pairs = {split: (path / "images", path / "masks") for split, path in split_folders(root).items()}
    if not pairs and (root / "images").is_dir():
        inner = split_folders(root / "images")
        pairs = {split: (path, root / "masks" / path.name) for split, path in inner.items()}
        pairs = pairs or {"train": (root / "images", root / "masks")}
    if not pairs:
        raise DataError(f"{root.absolute()}: should hold {HOLDS}")
    return Source.of({split: Masked(*folders).split() for split, folders in pairs.items()}, pictures=True)


class Masked(Dataset[tuple[Image.Image, Tensor]]):
    """Pictures and masks of the same stem as (picture, (H, W) uint8). DataError: one has no partner."""

    def __init__(self, images: Path, masks: Path) -> None:
        for folder in (images, masks):
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder; a segmentation needs {HOLDS}")
        pictures = {path.stem: str(path) for path in files_below(images, SUFFIXES)}
        found = {path.stem: str(path) for path in files_below(masks, SUFFIXES)}
        if not pictures:
            raise DataError(f"{images}: holds no picture ({', '.join(SUFFIXES)})")
        lonely = sorted(set(pictures) - set(found))
        if lonely:
            raise DataError(f"{pictures[lonely[0]]}: has no mask {lonely[0]}.png in {masks}")
        self.samples = [(pictures[stem], found[stem]) for stem in sorted(pictures)]

    def split(self) -> Stream:
        """All of them."""
        return Stream(self, torch.arange(len(self)))

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        picture, mask = self.samples[index]
        return open_picture(picture), open_mask(mask)

    def __len__(self) -> int:
        return len(self.samples)


def open_mask(path: str) -> Tensor:  # -> (H, W) uint8
    """The class number of each pixel; of a picture with a palette its index."""
    check_regular(path)
    with Image.open(path) as picture:
        if picture.mode not in ("L", "P", "1"):
            raise DataError(
                f"its mask {path} has the mode {picture.mode}; one class number (0 to 255) a pixel is needed"
            )
        return torch.from_numpy(np.array(picture).astype(np.uint8))
