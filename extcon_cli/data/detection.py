"""Pictures with boxes, in the format of COCO: one JSON file a split. Pictures are opened while they are used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from extcon_cli.data.paths import NAMES, entries, folder_of
from extcon_cli.data.pictures import open_picture
from extcon_cli.data.splits import Source, Stream
from extcon_cli.errors import DataError, one_line
from extcon_cli.json_text import parse_json
from extcon_cli.recipe.schema import DataSpec

HOLDS = "train/ and val/ with pictures and one .json each, or annotations/*train*.json beside the pictures"


def coco(spec: DataSpec, task: str) -> Source:
    """Pictures and a .json in each of train/, val/ and test/; or annotations/*train*.json; or one .json alone.

    A label is the category's number in the file. Numbers begin at 1: detectors call the background 0.
    """
    if task != "detection":
        raise DataError(f"dataset {spec.dataset!r} is for a detection: set `task: detection`")
    root = folder_of(spec.root, spec.dataset, HOLDS)
    parts = {split: Boxes(file, places) for split, (file, places) in _files(root).items()}
    classes = max(part.top for part in parts.values()) + 1
    splits = {split: part.split() for split, part in parts.items()}
    return Source.of(splits, classes=classes, pictures=True, normalize=False)


def _files(root: Path) -> dict[str, tuple[Path, list[Path]]]:
    """The .json of each split, and the folders its pictures may lie in."""
    found = {}
    annotations = root / "annotations"
    for split, names in NAMES.items():
        inside = [path for path in entries(root) if path.is_dir() and path.name.lower().startswith(names)]
        given = [path for folder in inside for path in entries(folder) if path.suffix == ".json"]
        if annotations.is_dir():
            given += [
                p for p in entries(annotations) if p.suffix == ".json" and any(n in p.stem.lower() for n in names)
            ]
        if len(given) > 1:
            raise DataError(
                f"{root}: several files for {split}: {', '.join(path.name for path in given[:3])}; leave one"
            )
        if given:
            beside = [*inside, *(folder / "images" for folder in inside), root / "images", root]
            found[split] = (given[0], beside)
    if "train" in found and len(found) > 1:
        return found
    alone = [path for path in entries(root) if path.suffix == ".json"]
    if len(alone) == 1:
        return {"train": (alone[0], [root, root / "images"])}
    if "train" in found:
        return {"train": found["train"]}
    raise DataError(f"{root.absolute()}: should hold {HOLDS}")


class Boxes(Dataset[tuple[Image.Image, dict[str, Tensor]]]):
    """(picture, {boxes: (n, 4) xyxy in pixels, labels: (n,) int64}). DataError: the file is not as COCO's."""

    def __init__(self, file: Path, places: list[Path]) -> None:
        content = _json(file)
        try:
            self.top = max(int(category["id"]) for category in content["categories"])
            names = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
            boxes: dict[int, list[tuple[list[float], int]]] = {number: [] for number in names}
            for annotation in content["annotations"]:
                if annotation.get("iscrowd", 0):
                    continue
                x, y, width, height = map(float, annotation["bbox"])
                label = int(annotation["category_id"])
                if not 1 <= label <= self.top:
                    raise DataError(f"{file}: a box has the category {label}; they are numbered from 1 to {self.top}")
                if not all(map(math.isfinite, (x, y, width, height))):
                    raise DataError(f"{file}: a box of image {annotation['image_id']} is not finite")
                if width > 0 and height > 0:
                    boxes[int(annotation["image_id"])].append(([x, y, x + width, y + height], label))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"{type(error).__name__}: {one_line(error, 100)}"
            raise DataError(f"{file}: is not in the format of COCO ({what})") from error
        if not names:
            raise DataError(f"{file}: names no images")
        first = next(iter(names.values()))
        folder = next((place for place in places if (place / first).is_file()), None)
        if folder is None:
            raise DataError(f"{file}: its picture {first} lies in none of {', '.join(map(str, places))}")
        self.samples = [(str(folder / name), boxes[number]) for number, name in names.items()]

    def split(self) -> Stream:
        """All of them."""
        return Stream(self, torch.arange(len(self)))

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Tensor]]:
        path, boxes = self.samples[index]
        found = torch.tensor([box for box, _ in boxes], dtype=torch.float32).reshape(-1, 4)
        return open_picture(path), {"boxes": found, "labels": torch.tensor([n for _, n in boxes], dtype=torch.int64)}

    def __len__(self) -> int:
        return len(self.samples)


def _json(file: Path) -> Any:
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {one_line(error, 100)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: is not in the format of COCO (no object)")
    return content
