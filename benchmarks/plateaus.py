"""Remedies on plateaus of several kinds, against the best control of each seed.

    python benchmarks/plateaus.py PROBLEM [SEEDS] [--fashion fashion_mnist.npz] [--ways restart,shrink]

PROBLEM: dead (digits, most units dead), digits-cosine (digits, the end of a cosine schedule), fashion-cosine and
fashion-constant (10,000 images of 14 x 14 pixels, the end of a cosine schedule or of a constant rate), fashion-small (a
narrow net on 54,000 images), fashion-deep (30 hidden layers without skips, stuck), digits-residual (the sample's
residual net with batch norm, a constant rate), digits-convolutions (20 convolutions without skips, stuck),
digits-branches (residual blocks, most of whose inner units are dead). All seeds are trained in one (stack.py), those of
a net with batch norm one after the other; every strategy takes 40 % of the steps before. A control is going on, a
lowered rate, and a cosine restart; the best of them is taken for each seed and figure by its own test figure, which no
choice on validation data could do better.

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
from extcon_cli.events import ignore
from extcon_cli.pipelines.bypass import strategies
from extcon_cli.pipelines.bypassing.branch import follow
from extcon_cli.pipelines.bypassing.stalled import Stalled, stalled_model
from extcon_cli.pipelines.running.prepare import prepare
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict, resolve
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.bypass import Branch
from extcon_cli.report.serialise import to_json
from extcon_cli.training.device import create_accelerator

CONTROLS = (BASELINE, "lr_drop", "cosine")
SHARE = 0.4
"""Of the steps before that every strategy takes."""
SAMPLES = {"dead": "digits_mlp_stalled", "digits-residual": "digits_cnn_stalled"}
"""Problems that are made as a sample is: the recipe of its training."""
PROBLEMS = (
    *SAMPLES, "digits-cosine", "fashion-cosine", "fashion-constant", "fashion-small", "fashion-deep",
    "digits-convolutions", "digits-branches",
)  # fmt: skip

NETS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "digits-convolutions": (
        "deep_convolutions", 0.003,
        {"epochs": 20, "optimizer": {"name": "adam", "lr": 0.003}, "schedule": {"name": "constant"}, "keep": "last"},
    ),
    "digits-branches": (
        "residual", 0.001,
        {"epochs": 30, "optimizer": {"name": "adam", "lr": 0.1},
         "schedule": {"name": "step", "milestones": [0.05], "gamma": 0.01}, "keep": "last"},
    ),
}  # fmt: skip
"""A factory of plateaus_nets.py, the rate at which the training before ends, and that training."""


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
    if problem in SAMPLES:
        made = resolve("train", recipe=f"train/{SAMPLES[problem]}").recipe.model_dump(mode="json", exclude_unset=True)
        rate, steps = (0.001, 1000) if problem == "dead" else (0.003, 1000)
    elif problem in NETS:
        arch, rate, train_spec = NETS[problem]
        made = {
            "model": {"arch": f"plateaus_nets:{arch}", "input_shape": [1, 8, 8]},
            "data": {"dataset": "digits", "batch_size": 64},
            "task": "classification",
            "train": train_spec,
        }
        steps = round(SHARE * train_spec["epochs"] * 21)
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


def alone(made: Recipe, seeds: int) -> list[dict[str, Any]]:
    """The documents of nets that cannot be stacked: each is trained and bypassed by itself."""
    models = (trained(made, seed) for seed in range(seeds))
    return [stack.document(stalled, walked(stalled)) for stalled in models]


def trained(made: Recipe, seed: int) -> Stalled:
    """The net of one seed, as `extcon train` makes it."""
    own = made.model_copy(update={"seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "net.safetensors"
        train(own, checkpoint=None, output=output, device="cpu", emit=ignore)
        return stalled_model(prepare(own, output), create_accelerator("cpu", "no"))


def walked(stalled: Stalled) -> dict[str, stack.Walked]:
    """Every strategy of the recipe, one after the other."""
    found = {}
    for name in strategies(stalled.spec):
        end = follow(stalled, Branch(name), stalled.theta)
        module = stalled.model(end.weights) if end.weights is not None else None
        certificate = end.record.certificate
        found[name] = stack.Walked(module, to_json(certificate) if certificate is not None else {}, {})
    return found


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
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("seeds", nargs="?", type=int, default=8)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--ways", default="restart,shrink")
    given = parser.parse_args()
    ways = given.ways.split(",")
    with tempfile.TemporaryDirectory() as folder:
        made = recipe(given.problem, given.fashion, Path(folder), ways)
        stacked = given.problem != "digits-residual"
        documents = stack.compare(made, stack.stalled(made, given.seeds)) if stacked else alone(made, given.seeds)
    print(json.dumps({"problem": given.problem, **summary(documents, ways)}, indent=1))


if __name__ == "__main__":
    main()
