"""Guides (`train.guides`, self-abstraction) against plain training, over seeds.

    python benchmarks/guides.py --results guides.jsonl [--fashion fashion_mnist.npz] [--seeds 8] [--problems few,...]

few: a multilayer perceptron on 200 images of Fashion-MNIST at 14 x 14 pixels. deep: 30 hidden layers of 32 units
without skips, 1000 of them. conv: five convolutions without normalisation on 150 digits. recurrent: three recurrent
layers of 32 units that read 300 digits row by row. normalised: a convolutional net with batch norm on 100 digits.
Ways: plain; long, which is plain for twice the steps; guides 0.5; guides 0.25 and 0.5; for deep, `grow` as well. Each
is `extcon train` with Adam at a constant rate and the last state; a guide costs up to as much as the model.

One JSON line a run is added to the results; what is there already is not run again. At the end the summary is printed:
test loss and accuracy, mean and standard deviation, and wins and losses against plain and against long training.

fashion_mnist.npz holds x_train (60000, 28, 28) uint8, y_train, x_test, y_test. It is not downloaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import extcon_cli
from extcon_cli.checkpoint.trust import Trust
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict

HERE = Path(__file__).resolve()
PROBLEMS = ("few", "deep", "conv", "recurrent", "normalised")
IMAGES = {"few": 200, "deep": 1000, "conv": 150, "recurrent": 300, "normalised": 100}
"""To train on."""
STEPS = {"few": 400, "deep": 600, "conv": 300, "recurrent": 400, "normalised": 200}
RATES = {"few": 0.001, "deep": 0.001, "conv": 0.002, "recurrent": 0.002, "normalised": 0.003}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "long": {},
    "guides 0.5": {"guides": [0.5]},
    "guides 0.25, 0.5": {"guides": [0.25, 0.5]},
    "grow": {"grow": "depth"},
}


class Loop(nn.Module):
    """h(t) = tanh(W x(t) + U h(t - 1)), beginning with h(1) = tanh(W x(1)), so that no width stands in the code."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.read, self.remember = nn.Linear(inside, width), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, inside) -> (B, T, width)
        read = self.read(x).unbind(1)
        states = [read[0].tanh()]
        for step in read[1:]:
            states.append((step + self.remember(states[-1])).tanh())
        return torch.stack(states, 1)


class Rows(nn.Module):
    """A recurrent net that reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.loops = nn.Sequential(Loop(8, 32), Loop(32, 32), Loop(32, 32))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:  # (B, 1, 8, 8) -> (B, 10)
        return self.fc(self.loops(x.flatten(1, 2))[:, -1])


def recurrent() -> nn.Module:
    """Three recurrent layers of 32 units."""
    return Rows()


def convolutional() -> nn.Module:
    """Five convolutions of 16 channels without normalisation, for 1 x 8 x 8."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
    for at in range(4):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if at % 2 else [])]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))


@cache
def images(fashion: Path | None) -> dict[str, np.ndarray]:
    """The digits as bundled, or Fashion-MNIST (its file) at half its resolution as rows of 196 numbers."""
    with np.load(fashion or Path(extcon_cli.__file__).parent / "data" / "digits.npz") as found:
        given = {name: found[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    if fashion is not None:
        for name in ("x_train", "x_test"):
            pooled = given[name].reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
            given[name] = (pooled / 255).astype(np.float32)
    return given


def arrays(problem: str, fashion: Path | None, seed: int) -> dict[str, np.ndarray]:
    """The problem's images, other ones to train on for each seed."""
    if problem in ("few", "deep") and fashion is None:
        raise SystemExit(f"{problem}: --fashion names the file of Fashion-MNIST")
    given = images(fashion if problem in ("few", "deep") else None)
    chosen = np.random.default_rng(seed).permutation(len(given["x_train"]))[: IMAGES[problem]]
    return {**given, "x_train": given["x_train"][chosen], "y_train": given["y_train"][chosen].astype(np.int64)}


MODELS: dict[str, dict[str, Any]] = {
    "few": {"arch": "zoo:mlp", "kwargs": {"in_features": 196, "widths": [64, 32]}, "input_shape": [196]},
    "deep": {"arch": "zoo:mlp", "kwargs": {"in_features": 196, "widths": [32] * 30}, "input_shape": [196]},
    "conv": {"arch": f"{HERE}:convolutional"},
    "recurrent": {"arch": f"{HERE}:recurrent"},
    "normalised": {"arch": "zoo:convnet", "kwargs": {"widths": [16, 16, 32, 32], "channels": 1}},
}


@dataclass(frozen=True)
class Row:
    """One run: figures on the test data."""

    problem: str
    seed: int
    way: str
    accuracy: float
    loss: float


def run(problem: str, way: str, seed: int, data: Path, folder: Path) -> Row:
    """Train a new net."""
    steps = STEPS[problem] * (2 if way == "long" else 1)
    recipe = from_dict(
        {
            "model": MODELS[problem],
            "data": {"dataset": "arrays", "root": str(data), "batch_size": 50, "validation": 0.0},
            "task": "classification",
            "train": {
                "epochs": None,
                "steps": steps,
                "optimizer": {"name": "adam", "lr": RATES[problem]},
                "schedule": {"name": "constant"},
                "keep": "last",
                **WAYS[way],
            },
            "seed": seed,
        }
    )
    result = train(recipe, checkpoint=None, output=folder / "net.pt", device="cpu", force=True, keep_run=False,
                   trust=Trust(recipe=True))  # fmt: skip
    return Row(problem, seed, way, result.metrics["accuracy"], result.metrics["loss"])


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean, spread, wins and losses against plain and long training, by problem and way."""
    table: dict[str, Any] = {}
    for problem in PROBLEMS:
        found = {(row.seed, row.way): row for row in rows if row.problem == problem}
        ways = [way for way in WAYS if any(way == other for _, other in found)]
        seeds = [seed for seed in sorted({seed for seed, _ in found}) if all((seed, way) in found for way in ways)]
        if not seeds:
            continue
        table[problem] = {"seeds": len(seeds)}
        for way in ways:
            own = [found[seed, way] for seed in seeds]
            line = {
                "accuracy": spread([100 * row.accuracy for row in own]),
                "loss": spread([row.loss for row in own], digits=3),
            }
            for control in ("plain", "long"):
                gain = [100 * (row.accuracy - found[row.seed, control].accuracy) for row in own]
                less = [found[row.seed, control].loss - row.loss for row in own]
                line[f"accuracy over {control}"] = f"{spread(gain)} {wins(gain)}"
                line[f"loss under {control}"] = f"{spread(less, digits=3)} {wins(less)}"
            table[problem][way] = line
    return table


def spread(values: Sequence[float], digits: int = 1) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} +- {deviation:.{digits}f}"


def wins(values: Sequence[float]) -> str:
    return f"({sum(value > 0 for value in values)}/{sum(value < 0 for value in values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    given = parser.parse_args()
    lines = given.results.read_text().splitlines() if given.results.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    there = {(row.problem, row.seed, row.way) for row in rows}
    with given.results.open("a") as results, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(given.seeds):
            for problem in given.problems.split(","):
                ways = [
                    way for way in WAYS if (problem, seed, way) not in there and (way != "grow" or problem == "deep")
                ]
                if ways:
                    np.savez(folder / "data.npz", **arrays(problem, given.fashion, seed))
                for way in ways:
                    row = run(problem, way, seed, folder / "data.npz", folder)
                    print(json.dumps(vars(row)), file=results, flush=True)
                    rows.append(row)
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
