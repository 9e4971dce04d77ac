"""How often the diagnosis of `extcon bypass` names the right kind of plateau, on a labelled set of small nets.

    python benchmarks/diagnosis.py [SEEDS] --fashion fashion_mnist.npz [--first 4] [--figures FILE] [--case NAME]

Eight kinds in four cases or more, most of multilayer perceptrons, one of convolutions, every one trained anew by each
seed (8 by default, from `--first` on); the seeds of a perceptron all at once, by batched products. A case is what its
making says: units that a far too high rate has killed, a deep stack without skips, the end of a cosine schedule, a rate
ten times too high, few examples for long, shuffled labels or inputs of noise, a net of two to fourteen units at the end
of its training, a training that was cut short. The first four seeds (`--tuning`) are those on which the thresholds of
extcon_cli/pipelines/bypassing/kinds.py were set; the others were held out.

Prints one JSON document: of the tuning seeds and of the held-out ones the table of labels and verdicts, precision and
recall of each kind, and what a diagnosis cost. `--figures FILE` keeps the figures of each run (JSON lines) and, where
they are there already, only judges them anew.

fashion_mnist.npz holds x_train (60000, 28, 28) uint8, y_train, x_test, y_test. It is not downloaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stack import OURS
from torch import Tensor, nn

from extcon_cli.events import ignore
from extcon_cli.pipelines.bypassing.diagnosis import diagnose
from extcon_cli.pipelines.bypassing.kinds import kind
from extcon_cli.pipelines.bypassing.stalled import stalled_model
from extcon_cli.pipelines.running.prepare import Prepared, prepare
from extcon_cli.pipelines.train import train as trained_by_command
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.bypass import Diagnosis
from extcon_cli.report.serialise import from_json, to_json
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.optim import lr_factor, total_steps


@dataclass(frozen=True)
class Case:
    """How the nets of one case are made, and what holds them back then."""

    label: str
    data: str
    """digits or fashion; images of a net of convolutions keep their two dimensions."""
    images: int
    """Of which half are for validation."""
    widths: tuple[int, ...]
    rate: float
    """Of Adam, at which the training before ends and the probe goes on; a cosine begins there."""
    epochs: int
    schedule: str = "constant"
    killing: float | None = None
    """The rate of the first twentieth."""
    spoilt: str = ""
    """labels: shuffled; inputs: noise."""
    net: str = "zoo:mlp"
    """zoo:convnet has batch norm, the nets of plateaus_nets.py have none; they have no `widths`."""

    @property
    def side(self) -> int:
        """Pixels of an image along one side."""
        return 8 if self.data == "digits" else 14


CASES = {
    "dead-digits": Case("dead units", "digits", 1400, (16,), 0.001, 100, killing=0.2),
    "deep-digits": Case("dying stack", "digits", 1400, (24,) * 30, 0.003, 15),
    "end-fashion-wide": Case("finished schedule", "fashion", 10000, (128,), 0.003, 12, "cosine"),
    "high-fashion-wide": Case("rate too high", "fashion", 10000, (128,), 0.02, 10),
    "few-digits": Case("overfitting", "digits", 300, (128,), 0.001, 300),
    "labels-digits": Case("data at fault", "digits", 1400, (64, 32), 0.001, 40, spoilt="labels"),
    "narrow-digits": Case("capacity-bound", "digits", 1400, (3,), 0.003, 150, "cosine"),
    "short-digits": Case("still learning", "digits", 1400, (64, 32), 0.001, 6),
    "dead-digits-two": Case("dead units", "digits", 1400, (32, 16), 0.001, 100, killing=0.2),
    "deep-fashion": Case("dying stack", "fashion", 4000, (32,) * 30, 0.003, 10),
    "end-fashion": Case("finished schedule", "fashion", 10000, (64, 32), 0.003, 20, "cosine"),
    "high-fashion": Case("rate too high", "fashion", 10000, (64, 32), 0.01, 15),
    "few-fashion": Case("overfitting", "fashion", 2000, (128,), 0.001, 80),
    "labels-fashion": Case("data at fault", "fashion", 4000, (64, 32), 0.001, 30, spoilt="labels"),
    "narrow-fashion": Case("capacity-bound", "fashion", 10000, (6,), 0.003, 30, "cosine"),
    "short-fashion": Case("still learning", "fashion", 10000, (64, 32), 0.001, 1),
    "dead-fashion": Case("dead units", "fashion", 4000, (32,), 0.001, 40, killing=0.2),
    "deep-fashion-slow": Case("dying stack", "fashion", 4000, (24,) * 30, 0.001, 10),
    "end-fashion-slow": Case("finished schedule", "fashion", 10000, (32, 32), 0.001, 25, "cosine"),
    "high-fashion-narrow": Case("rate too high", "fashion", 10000, (32,), 0.02, 10),
    "few-fashion-deep": Case("overfitting", "fashion", 3000, (128, 64), 0.001, 60),
    "noise-fashion": Case("data at fault", "fashion", 4000, (32,), 0.001, 30, spoilt="inputs"),
    "narrow-fashion-two": Case("capacity-bound", "fashion", 10000, (8, 6), 0.003, 30, "cosine"),
    "short-fashion-slow": Case("still learning", "fashion", 10000, (32,), 0.0003, 3),
    "slow-fashion": Case("still learning", "fashion", 10000, (64, 32), 0.0001, 12),
    "slow-fashion-wide": Case("still learning", "fashion", 10000, (128,), 0.0003, 8),
    "dead-branches": Case("dead units", "digits", 1400, (), 0.001, 40, killing=0.1, net="plateaus_nets:residual"),
    "deep-convolutions": Case("dying stack", "digits", 1400, (), 0.003, 8, net="plateaus_nets:deep_convolutions"),
    "end-convnet": Case("finished schedule", "fashion", 8000, (16, 32, 32), 0.003, 5, "cosine", net="zoo:convnet"),
    "high-convnet": Case("rate too high", "fashion", 8000, (8, 16), 0.1, 8, net="zoo:convnet"),
    "few-convnet": Case("overfitting", "fashion", 400, (16, 32), 0.002, 400, net="zoo:convnet"),
    "labels-convnet": Case("data at fault", "fashion", 3000, (8, 16), 0.003, 12, spoilt="labels", net="zoo:convnet"),
    "narrow-convnet": Case("capacity-bound", "fashion", 8000, (2, 2), 0.01, 15, "cosine", net="zoo:convnet"),
    "short-convnet": Case("still learning", "fashion", 8000, (8, 16), 0.001, 1, net="zoo:convnet"),
}


def arrays(case: Case, fashion: Mapping[str, Any], folder: Path) -> Path:
    """The file of a case's images: digits as they are, Fashion-MNIST at half its resolution."""
    if case.data == "digits":
        with (files("extcon_cli.data") / "digits.npz").open("rb") as file:
            found = np.load(file)
            x, y = (np.concatenate([found[f"{kind}_train"], found[f"{kind}_test"]]) for kind in "xy")
        x, y = x.reshape(len(x), -1).astype(np.float32) / x.max(), y.astype(np.int64)
    else:
        x = fashion["x_train"][: case.images + 1000].reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255
        x, y = x.astype(np.float32), fashion["y_train"][: case.images + 1000].astype(np.int64)
    if case.net != "zoo:mlp":
        x = x.reshape(-1, 1, case.side, case.side)
    noise = np.random.default_rng(1)
    if case.spoilt == "labels":
        y = noise.permutation(y)
    elif case.spoilt == "inputs":
        x = noise.normal(size=x.shape).astype(np.float32)
    path, cut = folder / "data.npz", case.images
    np.savez(path, x_train=x[:cut], y_train=y[:cut], x_test=x[cut:], y_test=y[cut:])
    return path


def recipe(case: Case, data: Path) -> Recipe:
    """How a case is made, and how it goes on."""
    shape = [case.side**2] if case.net == "zoo:mlp" else [1, case.side, case.side]
    sizes: dict[str, Any] = {"widths": [*case.widths], "num_classes": 10} if case.widths else {}
    kwargs = {"zoo:mlp": {**sizes, "in_features": case.side**2}, "zoo:convnet": {**sizes, "channels": 1}}
    schedule: dict[str, Any] = {"name": case.schedule}
    if case.killing is not None:
        schedule = {"name": "step", "milestones": [0.05], "gamma": case.rate / case.killing}
    return from_dict(
        {
            "model": {"arch": case.net, "kwargs": kwargs.get(case.net, {}), "input_shape": shape},
            "data": {"dataset": "arrays", "root": str(data), "batch_size": 64, "validation": 0.5},
            "task": "classification",
            "train": {"epochs": case.epochs, "optimizer": {"name": "adam", "lr": case.killing or case.rate},
                      "schedule": schedule, "keep": "last"},
            "bypass": {"optimizer": {"name": "adam", "lr": case.rate}},
        }
    )  # fmt: skip


def trained(made: Recipe, seeds: range) -> Iterator[Prepared]:
    """The recipe's net, trained anew by each seed: multilayer perceptrons all at once, others one after the other."""
    if made.model.arch == "zoo:mlp":
        yield from train(made, seeds)
        return
    for seed in seeds:
        own = made.model_copy(update={"seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "net.safetensors"
            trained_by_command(own, checkpoint=None, output=output, device="cpu", trust=OURS, emit=ignore)
            yield prepare(own, output, trust=OURS)


def train(made: Recipe, seeds: range) -> list[Prepared]:
    """The recipe's MLP, trained anew by each seed with Adam, as `extcon train` does; all seeds in batched products."""
    runs = []
    for seed in seeds:
        torch.manual_seed(seed)
        runs.append(prepare(made.model_copy(update={"seed": seed}), None))
    loaders = [run.data.train_loader(device="cpu", seed=seed) for seed, run in zip(seeds, runs, strict=True)]
    maps = [[m for m in run.module.modules() if isinstance(m, nn.Linear)] for run in runs]
    layers = [
        (torch.stack([m.weight.detach() for m in of]), torch.stack([m.bias.detach()[None] for m in of]))
        for of in zip(*maps, strict=True)
    ]  # (S, out, in), (S, 1, out)
    parameters = [tensor.requires_grad_() for layer in layers for tensor in layer]
    spec = made.train
    moving = torch.optim.Adam(parameters, spec.optimizer.lr, fused=True)
    total = total_steps(spec, len(loaders[0]))
    for step in range(total):
        moving.param_groups[0]["lr"] = spec.optimizer.lr * lr_factor(spec.schedule, step, total)
        x, y = (torch.stack(parts) for parts in zip(*(loader.batch(step) for loader in loaders), strict=True))
        loss = nn.functional.cross_entropy(forward(layers, x).flatten(0, 1), y.flatten()) * len(runs)
        moving.zero_grad()
        loss.backward()
        moving.step()
    with torch.no_grad():
        for (weight, bias), of in zip(layers, zip(*maps, strict=True), strict=True):
            for seed, m in enumerate(of):
                m.weight.copy_(weight[seed])
                m.bias.copy_(bias[seed, 0])
    return runs


def forward(layers: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:  # (S, B, features) -> (S, B, classes)
    """ReLU between the maps."""
    for place, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias, x.relu() if place else x, weight.mT)
    return x


def runs(name: str, seeds: range, fashion: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The figures of each seed of a case."""
    with tempfile.TemporaryDirectory() as folder:
        made = recipe(CASES[name], arrays(CASES[name], fashion, Path(folder)))
        for seed, prepared in zip(seeds, trained(made, seeds), strict=True):
            stalled = stalled_model(replace(prepared, module=prepared.module.eval()), create_accelerator("cpu", "no"))
            began = time.process_time()
            found = diagnose(stalled)
            seconds = time.process_time() - began
            yield {
                "case": name,
                "label": CASES[name].label,
                "seed": seed,
                "trials": len(found.probe),
                "seconds": seconds,
                "test": stalled.metrics(stalled.model(stalled.theta), "test"),
                "diagnosis": to_json(found),
            }


def judged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table of labels and verdicts, and precision and recall of each kind."""
    pairs = [(row["label"], kind(from_json(Diagnosis, row["diagnosis"]), 0.05)) for row in rows]
    table: dict[str, dict[str, int]] = {}
    for label in dict.fromkeys(case.label for case in CASES.values()):
        table[label] = dict(Counter(verdict for truth, verdict in pairs if truth == label))
    scores = {}
    for label, counted in table.items():
        right, named = counted.get(label, 0), sum(verdict == label for _, verdict in pairs)
        scores[label] = {
            "precision": right / named if named else None,
            "recall": right / max(1, sum(counted.values())),
            "named": named,
        }
    right = sum(truth == verdict for truth, verdict in pairs)
    named = sum(verdict != "plateau" for _, verdict in pairs)
    return {"runs": len(rows), "right": right, "precision": right / max(1, named), "table": table, "kinds": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="?", type=int, default=8)
    parser.add_argument("--fashion", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--tuning", type=int, default=4)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--case", help="one case, or several with commas between")
    given = parser.parse_args()
    kept = given.figures.read_text().splitlines() if given.figures and given.figures.exists() else []
    rows = [json.loads(line) for line in kept]
    names = given.case.split(",") if given.case else [*CASES]
    fashion = np.load(given.fashion)
    fashion = {key: fashion[key] for key in ("x_train", "y_train")}
    for name in names:
        if any(row["case"] == name for row in rows):
            continue
        for row in runs(name, range(given.first, given.seeds), fashion):
            rows.append(row)
            if given.figures:
                with given.figures.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    tuning = [row for row in rows if row["seed"] < given.tuning]
    held_out = [row for row in rows if row["seed"] >= given.tuning]
    cost = sum(row["seconds"] for row in rows) / max(1, len(rows))
    print(json.dumps({"tuning": judged(tuning), "held out": judged(held_out), "seconds a diagnosis": cost}, indent=1))


if __name__ == "__main__":
    main()
