"""Remedies on plateaus of several kinds, against the best control of each seed.

    python benchmarks/plateaus.py PROBLEM [SEEDS] [--fashion fashion_mnist.npz] [--ways restart,shrink]

PROBLEM: dead (digits, most units dead), digits-cosine (digits, the end of a cosine schedule), fashion-cosine and
fashion-constant (10,000 images of 14 x 14 pixels, the end of a cosine schedule or of a constant rate), fashion-small (a
narrow net on 54,000 images), fashion-deep (30 hidden layers without skips, stuck). All seeds are trained in one
(stack.py) and every strategy takes 40 % of the steps before. A control is going on, a lowered rate, and a cosine
restart; the best of them is taken for each seed and figure by its own test figure, which no choice on validation data
could do better.

Prints one JSON document: for every way the gain over that control, in percent of the test loss, of the calibrated test
loss (one temperature fitted) and in points of accuracy: mean, standard deviation, wins and losses; how often it was
chosen by the validation data, and how often the choice was worse there than theta*.

fashion_mnist.npz holds x_train (60000, 28, 28) uint8, y_train, x_test, y_test. It is not downloaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import stack

from extcon_cli.bypass.strategies import BASELINE
from extcon_cli.recipe.load import from_dict, resolve
from extcon_cli.recipe.schema import Recipe

CONTROLS = (BASELINE, "lr_drop", "cosine")
SHARE = 0.4
"""Of the steps before that every strategy takes."""


def fashion(file: Path, folder: Path, images: int) -> dict[str, Any]:
    """The section `data` of Fashion-MNIST at half its resolution; 10 % of the images are for validation."""
    found = np.load(file)
    arrays = {key: found[key] for key in ("y_train", "y_test")}
    for key in ("x_train", "x_test"):
        pooled = found[key].reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
        arrays[key] = (pooled / 255).astype(np.float32)
    for key in ("x_train", "y_train"):
        arrays[key] = arrays[key][:images]
    np.savez(folder / "fashion.npz", **arrays)
    return {"dataset": "arrays", "root": str(folder / "fashion.npz"), "batch_size": 128, "validation": 0.1}


def recipe(problem: str, file: Path | None, folder: Path, ways: Sequence[str]) -> Recipe:
    """How a problem is made, and how it is bypassed."""
    if problem == "dead":
        made = resolve("train", recipe="train/digits_mlp_stalled").recipe.model_dump(mode="json", exclude_unset=True)
        rate, steps = 0.001, 1000
    else:
        deep, small = problem == "fashion-deep", problem == "fashion-small"
        widths = [32] * 30 if deep else [24, 24] if small else [64, 32]
        digits = problem == "digits-cosine"
        rate, epochs = (0.003, 30) if deep else (0.001, 12) if small else (0.001, 100 if digits else 60)
        if not digits and file is None:
            raise SystemExit(f"{problem}: --fashion names the file of Fashion-MNIST")
        kwargs = {"in_features": 64 if digits else 196, "widths": widths, "num_classes": 10}
        data = {"dataset": "digits", "batch_size": 64} if digits else fashion(file, folder, 60000 if small else 10000)
        name = "cosine" if problem.endswith(("cosine", "small")) else "constant"
        made = {
            "model": {"arch": "zoo:mlp", "kwargs": kwargs, "input_shape": [1, 8, 8] if digits else [196]},
            "data": data,
            "task": "classification",
            "train": {"epochs": epochs, "optimizer": {"name": "adam", "lr": rate}, "schedule": {"name": name},
                      "keep": "last"},
        }  # fmt: skip
        batches = 21 if digits else 422 if small else 71
        steps = round(SHARE * epochs * batches)
    parts = {"opt_1": {"steps": steps // 2}, "opt_2": {"steps": steps // 4}, "train_3": {"steps": steps // 4}}
    section = {"extensions": [*ways], "controls": ["lr_drop", "cosine"], "optimizer": {"name": "adam", "lr": rate}}
    return from_dict({**made, "bypass": {**section, **parts}})


FIGURES: dict[str, tuple[Callable[[Mapping[str, Any], str], float], Callable[[float, float], float]]] = {
    "loss %": (lambda d, way: d["test"][way]["loss"], lambda way, control: 100 * (1 - way / control)),
    "calibrated loss %": (lambda d, way: d["test calibrated"][way], lambda way, control: 100 * (1 - way / control)),
    "accuracy points": (lambda d, way: -d["test"][way]["accuracy"], lambda way, control: 100 * (control - way)),
}
"""Of a document and a way: what is less for the better one; and the gain of one such number over a control's."""


def summary(documents: Sequence[Mapping[str, Any]], ways: Sequence[str]) -> dict[str, Any]:
    """What the seeds of one problem say together."""
    table: dict[str, Any] = {}
    for way in (*ways, "theta*", *CONTROLS):
        row: dict[str, Any] = {"chosen": sum(d["verdict"] == way for d in documents)}
        for name, (read, gain) in FIGURES.items():
            there = [d for d in documents if way in d["test"]]
            found = [gain(read(d, way), min(read(d, control) for control in CONTROLS)) for d in there]
            if found:
                spread = statistics.stdev(found) if len(found) > 1 else 0.0
                wins, losses = sum(value > 0 for value in found), sum(value < 0 for value in found)
                row[name] = f"{statistics.mean(found):+.2f} +- {spread:.2f} ({wins}/{losses})"
        table[way] = row
    return {
        "seeds": len(documents),
        "against the best control": table,
        "temperature of theta*": [round(d["calibrated"]["theta*"]["temperature"], 2) for d in documents],
        "accuracy of theta*": statistics.mean(d["test"]["theta*"]["accuracy"] for d in documents),
        "test loss of theta*": statistics.mean(d["test"]["theta*"]["loss"] for d in documents),
        "worse than theta*": sum(d["validation"][d["verdict"]] > d["validation"]["theta*"] for d in documents),
        "refused": sorted({c["reason"] for d in documents for c in d["certificate"].values() if "reason" in c}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=("dead", "digits-cosine", "fashion-cosine", "fashion-constant",
                                            "fashion-small", "fashion-deep"))  # fmt: skip
    parser.add_argument("seeds", nargs="?", type=int, default=8)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--ways", default="restart,shrink")
    given = parser.parse_args()
    ways = given.ways.split(",")
    with tempfile.TemporaryDirectory() as folder:
        made = recipe(given.problem, given.fashion, Path(folder), ways)
        documents = stack.compare(made, stack.stalled(made, given.seeds))
    print(json.dumps({"problem": given.problem, **summary(documents, ways)}, indent=1))


if __name__ == "__main__":
    main()
