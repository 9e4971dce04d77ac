"""Ultralytics' tasks before and after a pruning, on generated pictures.

    python benchmarks/yolo.py FOLDER [detect] [segment] [classify] [pose]
    python benchmarks/yolo.py shares

Discs, boxes and triangles on noise, 96 pixels, 240 to learn from and 60 to measure on. A model of the n scale is
trained from random weights (minutes; what lies in FOLDER already is taken), and pruned by `extcon prune` as users run
it: chosen by energy with the hand-over, or by magnitude without it; not trained after, or five epochs in Ultralytics'
trainer. `shares`: how much of its models the YAML can say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from extcon_cli.errors import ExtconError

SIZE = 96
NAMES = ["disc", "box", "triangle"]
MODELS = {"detect": "yolov8n", "segment": "yolov8n-seg", "classify": "yolov8n-cls", "pose": "yolov8n-pose"}
EPOCHS = {"detect": 30, "segment": 25, "classify": 40, "pose": 25}
WITHOUT = ("prune.score.method=magnitude", "prune.compensate.enabled=false", "prune.finetune.steps=0")
WAYS: dict[str, tuple[str, ...]] = {
    "magnitude, removed": WITHOUT,
    "energy, handed over": ("prune.finetune.steps=0",),
    "energy, handed over, 5 epochs": ("prune.finetune.epochs=5",),
}
RATIO = "0.3"


def pictures(place: Path, task: str) -> Path:
    """Made pictures in train and val; what Ultralytics is given."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 240), ("val", 60)):
        for number in range(count):
            picture = cv2.GaussianBlur(
                generator.normal(110, 25, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8), (5, 5), 0
            )
            rows = []
            for _ in range(1 if task == "classify" else generator.integers(1, 4)):
                kind, corners, row = one(generator, task)
                cv2.fillPoly(picture, [corners.astype(np.int32)], tuple(int(c) for c in generator.integers(0, 256, 3)))
                rows.append(row)
            folder = place / split / NAMES[kind] if task == "classify" else place / "images" / split
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number}.png"), picture)
            if task != "classify":
                (place / "labels" / split).mkdir(parents=True, exist_ok=True)
                text = "\n".join(" ".join(f"{value:g}" for value in row) for row in rows)
                (place / "labels" / split / f"{number}.txt").write_text(text)
    if task == "classify":
        return place
    content = {"path": str(place.resolve()), "train": "images/train", "val": "images/val", "names": NAMES}
    pose = {"kpt_shape": [3, 3], "flip_idx": [0, 2, 1]} if task == "pose" else {}
    (place / "data.yaml").write_text(json.dumps({**content, **pose}))
    return place / "data.yaml"


def one(generator: np.random.Generator, task: str) -> tuple[int, np.ndarray, list[float]]:
    """A figure: its class, its corners (n, 2), and its row of labels."""
    kind, radius = int(generator.integers(3)), int(generator.integers(SIZE // 8, SIZE // 4))
    x, y = generator.integers(radius, SIZE - radius, 2)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    left, right, top, bottom = x - radius, x + radius, y - radius, y + radius
    corners = (
        np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1),
        np.array([[left, top], [right, top], [right, bottom], [left, bottom]]),
        np.array([[x, top], [right, bottom], [left, bottom]]),
    )[kind]
    box = [x / SIZE, y / SIZE, 2 * radius / SIZE, 2 * radius / SIZE]
    points = [x, top, 2 * SIZE, left, bottom, 2 * SIZE, right, bottom, 2 * SIZE]
    row = {
        "detect": box, "classify": [], "segment": (corners / SIZE).clip(0, 1).ravel().tolist(),
        "pose": [*box, *(value / SIZE for value in points)],
    }[task]  # fmt: skip
    return kind, corners, [kind, *row]


def trained(place: Path, task: str, data: Path) -> Path:
    """The checkpoint of a training of Ultralytics."""
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    from ultralytics import YOLO

    mild = {"erasing": 0.0, "scale": 0.2, "auto_augment": None} if task == "classify" else {}
    YOLO(f"{MODELS[task]}.yaml", task=task).train(
        data=str(data), imgsz=SIZE, epochs=EPOCHS[task], batch=16, nbs=16, device="cpu", plots=False, amp=False,
        project=str(place / "runs"), name=task, exist_ok=True, optimizer="AdamW", lr0=2e-3, warmup_epochs=1, mosaic=0.5,
        close_mosaic=5, **mild,
    )  # fmt: skip
    return place / "runs" / task / "weights" / "best.pt"


def rows(place: Path, task: str) -> Iterator[str]:
    """The table of one task."""
    data = place / "data" / task
    found = data if task == "classify" else data / "data.yaml"
    found = found if found.exists() else pictures(data, task)
    checkpoint = place / "runs" / task / "weights" / "best.pt"
    checkpoint = checkpoint if checkpoint.exists() else trained(place, task, found)
    for way, changes in WAYS.items():
        command = [
            sys.executable, "-m", "extcon_cli", "prune", str(checkpoint), "--data", str(found), "--trust-pickle",
            "--ratio", RATIO, "--force", "--no-latency", "--json", "--set", "prune.score.batches=15",
            *(word for change in changes for word in ("--set", change)), "--out", str(place / f"{task}.pt"),
        ]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            yield f"| {task} | {way} | {ran.stderr.strip().splitlines()[-1]} |"
            continue
        result = json.loads(ran.stdout)
        before, after = result["before"], result["after"]
        for name in before["metrics"]:
            if name not in ("map50", "top5"):
                figures = f"{100 * before['metrics'][name]:.1f} | {100 * after['metrics'][name]:.1f}"
                share = after["params"] / before["params"]
                gap, macs = result["folder"]["plain_difference"], after["macs"] / before["macs"]
                seconds = result["seconds"]["total"]
                yield f"| {task} | {way} | {name} | {figures} | {share:.2f} | {macs:.2f} | {gap:.0e} | {seconds:.0f} |"


def shares() -> Iterator[str]:
    """What of each model can go so that the YAML says it, and in all."""
    import torch

    from extcon_cli.channels import coverage
    from extcon_cli.checkpoint.ultralytics.library import library, quiet
    from extcon_cli.checkpoint.ultralytics.widths import Widths

    yield "| model | numbers of the YAML | parameters, YAML, % | parameters, free, % | s |"
    yield "|---|---:|---:|---:|---:|"
    for name in ("yolov8n", "yolo11n", "yolo26n", "yolov8n-seg", "yolov8n-pose", "yolov8n-cls", "yolov5n", "yolov10n"):
        began = time.process_time()
        try:
            with quiet():
                model = library("models.yolo").YOLO(f"{name}.yaml").model.eval()
            says = Widths.of(model, (torch.rand(2, 3, 64, 64),), "uniform")
        except ExtconError as error:
            yield f"| {name} | {error} |"
            continue
        can, free = (100 * coverage(model, which) for which in (says.channels, says.every))
        yield f"| {name} | {len(says.found)} | {can:.1f} | {free:.1f} | {time.process_time() - began:.0f} |"


def main() -> None:
    """The table."""
    place, *tasks = sys.argv[1:]
    if place == "shares":
        for row in shares():
            print(row, flush=True)
        return
    print("| task | way | figure | before, % | after, % | parameters left | MACs left | YAML | s |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for task in tasks or MODELS:
        for row in rows(Path(place), task):
            print(row, flush=True)


if __name__ == "__main__":
    main()
