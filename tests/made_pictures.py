"""Generated pictures for Ultralytics' tasks: discs and boxes on noise, with labels as it reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIZE = 64
NAMES = ("disc", "box")
ROWS = [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [64, 3, 2]], [-1, 3, "C2f", [64, True]],
        [-1, 1, "Conv", [128, 3, 2]], [-1, 1, "SPPF", [128, 5]]]  # fmt: skip
UP = [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, 2], 1, "Concat", [1]], [-1, 3, "C2f", [64]]]
HEADS: dict[str, list[Any]] = {
    "detect": [*UP, [[7, 4], 1, "Detect", ["nc"]]],
    "segment": [*UP, [[7, 4], 1, "Segment", ["nc", 8, 64]]],
    "pose": [*UP, [[7, 4], 1, "Pose", ["nc", [2, 3]]]],
    "classify": [[-1, 1, "Classify", ["nc"]]],
}
CLASSES = {"detect": "Detection", "segment": "Segmentation", "pose": "Pose", "classify": "Classification"}


def pictures(place: Path, task: str, count: int = 8, seed: int = 0) -> Path:
    """Pictures in train and val; what `--data` is given."""
    generator = np.random.default_rng(seed)
    for split in ("train", "val"):
        for number in range(count):
            image = generator.normal(110, 25, (SIZE, SIZE, 3))
            kind, radius = int(generator.integers(2)), int(generator.integers(8, 16))
            x, y = generator.integers(radius, SIZE - radius, 2)
            rows, columns = np.ogrid[:SIZE, :SIZE]
            far = np.hypot(columns - x, rows - y) if kind == 0 else np.maximum(abs(columns - x), abs(rows - y))
            image[far <= radius] = generator.integers(0, 256, 3)
            folder = place / split / NAMES[kind] if task == "classify" else place / "images" / split
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
            if task == "classify":
                continue
            box = [x, y, 2 * radius, 2 * radius]
            corners = [x - radius, y - radius, x + radius, y - radius, x + radius, y + radius, x - radius, y + radius]
            said = {"detect": box, "segment": corners, "pose": [*box, *corners[:2], 2 * SIZE, *corners[4:6], 2 * SIZE]}
            labels = place / "labels" / split
            labels.mkdir(parents=True, exist_ok=True)
            (labels / f"{number}.txt").write_text(" ".join(map(str, [kind, *(value / SIZE for value in said[task])])))
    if task == "classify":
        return place
    content: dict[str, Any] = {"path": str(place), "train": "images/train", "val": "images/val", "names": [*NAMES]}
    content |= {"kpt_shape": [2, 3], "flip_idx": [0, 1]} if task == "pose" else {}
    (place / "data.yaml").write_text(json.dumps(content))
    return place / "data.yaml"


def model(task: str) -> Any:
    """A tiny model of Ultralytics with random weights."""
    from ultralytics.nn import tasks

    config: dict[str, Any] = {"nc": 2, "reg_max": 4, "scales": {"n": [0.33, 0.25, 1024]}, "scale": "n"}
    config |= {"backbone": ROWS, "head": HEADS[task]} | ({"kpt_shape": [2, 3]} if task == "pose" else {})
    torch.manual_seed(0)
    made = getattr(tasks, f"{CLASSES[task]}Model")(json.loads(json.dumps(config)), verbose=False)
    made.names = dict(enumerate(NAMES))
    return made


def checkpoint(path: Path, task: str, *, half: bool = False) -> Path:
    """The model as Ultralytics saves it."""
    made = model(task).half() if half else model(task)
    made.args = {"imgsz": SIZE, "task": task}
    torch.save({"model": made, "ema": None, "epoch": -1, "train_args": {"imgsz": SIZE, "task": task}}, path)
    return path
