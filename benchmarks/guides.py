"""Guides (self-abstraction, `train.guides`) against plain training, over seeds.

    python benchmarks/guides.py --results guides.jsonl [--fashion fashion_mnist.npz] [--seeds 8] [--problems few,...]

few: a multilayer perceptron of two hidden layers on 200 images of Fashion-MNIST at 14 x 14 pixels. middle: 8 hidden
layers of 32 units without skips, 300 of them. deep: 30 hidden layers, 1000 of them. conv: five convolutions without
normalisation on 150 digits. recurrent: three recurrent layers of 32 units that read 300 digits row by row.

Ways: plain; guides, of 0.25 and 0.5; long, which is plain for twice the steps; for deep, `grow` as well. Adam at a
constant rate, the last state. A guide takes as many steps as the model. All seeds are trained in one (torch.func),
with extcon's own contraction, guidance and objective; `grow` is `extcon train`, seed by seed.

One JSON line a run is added to the results; what is there already is not run again. At the end the summary is printed:
test accuracy and loss, mean and standard deviation, and wins and losses against plain and against long training.

fashion_mnist.npz holds x_train (60000, 28, 28) uint8, y_train, x_test, y_test. It is not downloaded.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

import extcon_cli
from extcon_cli.bypass.abstraction import OUTPUTS, Guided, contracted, strength
from extcon_cli.checkpoint.zoo.mlp import MLP
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import DistillSpec
from extcon_cli.tasks import Classification
from extcon_cli.training.objective import objective

BATCH = 50
WAYS: dict[str, tuple[float, ...]] = {"plain": (), "guides": (0.25, 0.5), "long": ()}
"""Shares of the guides."""


# --- the problems ---------------------------------------------------------------------------------------------------


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
    """Three recurrent layers that read an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.loops = nn.Sequential(Loop(8, 32), Loop(32, 32), Loop(32, 32))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:  # (B, 1, 8, 8) -> (B, 10)
        return self.fc(self.loops(x.flatten(1, 2))[:, -1])


def convolutional() -> nn.Module:
    """Five convolutions of 16 channels without normalisation, for 1 x 8 x 8."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
    for at in range(4):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if at % 2 else [])]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))


@dataclass(frozen=True)
class Problem:
    """A net, and how it is trained."""

    make: Callable[[], nn.Module]
    fashion: bool
    images: int
    steps: int
    rate: float


PROBLEMS = {
    "few": Problem(lambda: MLP(196, (64, 32)), True, 200, 400, 0.001),
    "middle": Problem(lambda: MLP(196, (32,) * 8), True, 300, 400, 0.001),
    "deep": Problem(lambda: MLP(196, (32,) * 30), True, 1000, 300, 0.002),
    "conv": Problem(convolutional, False, 150, 200, 0.002),
    "recurrent": Problem(Rows, False, 300, 250, 0.002),
}


@cache
def images(fashion: Path | None) -> dict[str, np.ndarray]:
    """The digits as bundled, or Fashion-MNIST (its file) at half its resolution as rows of 196 numbers; in 0..1."""
    with np.load(fashion or Path(extcon_cli.__file__).parent / "data" / "digits.npz") as found:
        given = {name: found[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    for name in ("x_train", "x_test"):
        x = given[name]
        x = x.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) if fashion is not None else x.reshape(-1, 1, 8, 8)
        given[name] = (x / 255).astype(np.float32)
    return {**given, **{name: given[name].astype(np.int64) for name in ("y_train", "y_test")}}


def arrays(problem: Problem, fashion: Path | None, seed: int) -> dict[str, np.ndarray]:
    """The problem's images, other ones to train on for each seed."""
    if problem.fashion and fashion is None:
        raise SystemExit("--fashion names the file of Fashion-MNIST")
    given = images(fashion if problem.fashion else None)
    chosen = np.random.default_rng(seed).permutation(len(given["x_train"]))[: problem.images]
    return {**given, "x_train": given["x_train"][chosen], "y_train": given["y_train"][chosen]}


# --- training all seeds in one --------------------------------------------------------------------------------------


class Lesson(nn.Module):
    """A network beside its guide, as one module that gives the loss of a batch."""

    def __init__(self, network: nn.Module, guide: nn.Module | None, example: Tensor) -> None:
        super().__init__()
        self.network, self.guide = network, guide
        self.guided = Guided(network, guide, (example,)) if guide is not None else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # -> ()
        now = self.guided.strength if self.guided is not None else 0.0
        outputs = (self.guided or self.network)(x)
        if not now:
            return objective(Classification())(outputs, y)
        with torch.no_grad():
            taught = self.guided.teacher(x)
        loss = objective(Classification(), distill=DistillSpec(weight=OUTPUTS * now))(outputs, y, taught)
        return loss + self.guided.penalty()


def batches(data: Sequence[dict[str, np.ndarray]], steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(S, BATCH, ...) and (S, BATCH): every seed shuffles its own images for each epoch."""
    x, y = (torch.from_numpy(np.stack([item[name] for item in data])) for name in ("x_train", "y_train"))
    draws = [torch.Generator().manual_seed(seed) for seed in range(len(data))]
    epoch = x.shape[1] // BATCH
    seeds = torch.arange(len(data))[:, None]
    for step in range(steps):
        if step % epoch == 0:
            order = torch.stack([torch.randperm(x.shape[1], generator=draw) for draw in draws])
        part = order[:, step % epoch * BATCH :][:, :BATCH]
        yield x[seeds, part], y[seeds, part]


def taught(lessons: Sequence[Lesson], data: Sequence[dict[str, np.ndarray]], steps: int, rate: float) -> None:
    """Train the network of each lesson."""
    base = copy.deepcopy(lessons[0]).train()
    held = [dict(lesson.named_parameters()) for lesson in lessons]
    stacked = {name: torch.stack([own[name].detach() for own in held]) for name in held[0]}
    trained = [stacked[name].requires_grad_() for name, own in held[0].items() if own.requires_grad]
    moving = torch.optim.Adam(trained, lr=rate)
    losses = vmap(lambda parameters, x, y: functional_call(base, parameters, (x, y)))
    for step, (x, y) in enumerate(batches(data, steps)):
        if base.guided is not None:
            base.guided.strength = strength(step, steps)
        losses(stacked, x, y).sum().backward()
        moving.step()
        moving.zero_grad()
    with torch.no_grad():
        for place, own in enumerate(held):
            for name, parameter in own.items():
                parameter.copy_(stacked[name][place])


def stacked(problem: Problem, way: str, data: Sequence[dict[str, np.ndarray]]) -> list[nn.Module]:
    """The net of each seed, trained."""
    example = torch.from_numpy(data[0]["x_train"][:2])
    networks = []
    for seed in range(len(data)):
        torch.manual_seed(seed)
        networks.append(problem.make())
    guides: Sequence[nn.Module | None] = [None] * len(networks)
    forms = [[contracted(network, (example,), share) for network in networks] for share in WAYS[way]]
    for level in (*forms, networks):
        lessons = [Lesson(network, guide, example) for network, guide in zip(level, guides, strict=True)]
        taught(lessons, data, problem.steps * (2 if way == "long" else 1), problem.rate)
        guides = level
    return networks


# --- the runs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One net: figures on the test data."""

    problem: str
    seed: int
    way: str
    accuracy: float
    loss: float


def measured(problem: str, seed: int, way: str, network: nn.Module, data: dict[str, np.ndarray]) -> Row:
    x, y = (torch.from_numpy(data[name]) for name in ("x_test", "y_test"))
    with torch.no_grad():
        outputs = network.eval()(x)
    accuracy = (outputs.argmax(1) == y).double().mean()
    return Row(problem, seed, way, float(accuracy), float(functional.cross_entropy(outputs, y)))


def grown(problem: Problem, seed: int, data: dict[str, np.ndarray], folder: Path) -> nn.Module:
    """`extcon train` with `grow: depth`."""
    np.savez(folder / "data.npz", **data)
    optimizer = {"name": "adam", "lr": problem.rate}
    recipe = from_dict(
        {
            "model": {"arch": "zoo:mlp", "kwargs": {"in_features": 196, "widths": [32] * 30}, "input_shape": [196]},
            "data": {"dataset": "arrays", "root": str(folder / "data.npz"), "batch_size": BATCH, "validation": 0.0},
            "task": "classification",
            "train": {"epochs": None, "steps": problem.steps, "optimizer": optimizer, "keep": "last", "grow": "depth",
                      "schedule": {"name": "constant"}},
            "seed": seed,
        }
    )  # fmt: skip
    output = folder / "net.safetensors"
    train(recipe, checkpoint=None, output=output, device="cpu", force=True, keep_run=False)
    return extcon_cli.load(output)


def runs(name: str, way: str, seeds: int, fashion: Path | None) -> Iterator[Row]:
    """All seeds of a problem by one way."""
    problem = PROBLEMS[name]
    data = [arrays(problem, fashion, seed) for seed in range(seeds)]
    if way == "grow":
        with tempfile.TemporaryDirectory() as folder:
            networks = [grown(problem, seed, item, Path(folder)) for seed, item in enumerate(data)]
    else:
        networks = stacked(problem, way, data)
    for seed, (network, item) in enumerate(zip(networks, data, strict=True)):
        yield measured(name, seed, way, network, item)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean, spread, wins and losses against plain and long training, by problem and way."""
    table: dict[str, Any] = {}
    for problem in PROBLEMS:
        found = {(row.seed, row.way): row for row in rows if row.problem == problem}
        ways = dict.fromkeys(way for _, way in found)
        seeds = [seed for seed in sorted({seed for seed, _ in found}) if all((seed, way) in found for way in ways)]
        if not {"plain", "long"} <= set(ways):
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
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} +- {deviation:.{digits}f}"


def wins(values: Sequence[float]) -> str:
    """How many are more, and less, than nothing."""
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
    there = {(row.problem, row.way) for row in rows}
    with given.results.open("a") as results:
        for problem in given.problems.split(","):
            for way in (*WAYS, *(["grow"] if problem == "deep" else [])):
                if (problem, way) in there:
                    continue
                for row in runs(problem, way, given.seeds, given.fashion):
                    print(json.dumps(vars(row)), file=results, flush=True)
                    rows.append(row)
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
