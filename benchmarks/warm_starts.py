"""Warm starts: a net trained on the data of yesterday goes on with those of today, by ours and by others' ways.

    python benchmarks/warm_starts.py cifar10.npz --results warm.jsonl [--seeds 3] [--settings half,noise,classes]
                                     [--size larger]

half: on half of the images, then on all. noise: half of the labels drawn at random, then the right ones. classes: on
five of the ten classes, then on all ten. The net has ResNet-18's four stages with one block in each, an eighth as wide;
the data are 800 images of CIFAR-10, their inner 24 x 24 pixels halved. `--size larger`: two blocks in each, as
ResNet-18 has, and 1,600 whole images, halved; of the "restarted" ways new weights alone. Every way takes as many steps
(Adam), along half a cosine but for ours, which has a schedule of its own.

The other ways, each from its paper: going on; from scratch; shrink and perturb (Ash & Adams 2020); DASH (Shin et al.
2024); ReDo (Sokar et al. 2023); FIRE (Han et al. 2026). Ours is `extcon bypass --try restart,shrink`: the best of
theta*, going on, `restart` and `shrink` by the calibrated validation loss, three times the steps of the others in all.
"Restarted" ways begin as theirs do and then train as `restart` does: they tell beginning and schedule apart.

One JSON line a run is added to the results; what is there already is not run again. At the end the summary is printed:
test accuracy and loss, mean and standard deviation over the seeds, wins and losses against going on.

cifar10.npz holds x_train (50000, 32, 32, 3) uint8, y_train, x_test, y_test. It is not downloaded.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from extcon_cli.bypass.strategies import BASELINE, STRATEGIES
from extcon_cli.checkpoint.zoo.digits_resnet import Block, DigitsResNet
from extcon_cli.pipelines.bypassing.branch import follow
from extcon_cli.pipelines.bypassing.stalled import Stalled, Weights, stalled_model
from extcon_cli.pipelines.running.prepare import prepare
from extcon_cli.recipe.load import from_dict
from extcon_cli.report.results.bypass import Branch
from extcon_cli.training.device import create_accelerator

SETTINGS = ("half", "noise", "classes")
WIDTHS = (8, 16, 32, 64)
VALIDATION, TEST = 400, 2000


@dataclass(frozen=True)
class Size:
    """Of the problem and of the net."""

    images: int
    border: int
    """Pixels that are cut off on each side, before halving."""
    blocks: int
    """In each stage."""
    before: int
    """Steps of the first training."""
    steps: int
    """Of the second one."""

    @property
    def side(self) -> int:
        """Pixels of an image along one side."""
        return (32 - 2 * self.border) // 2


SIZES = {"small": Size(800, 4, 1, 300, 200), "larger": Size(1600, 0, 2, 450, 300)}
OURS = ("going on", "restart", "shrink")
RESTARTED = ", restarted"
REDO_EVERY, REDO_DORMANT = 50, 0.1
SHRINK, NOISE = 0.6, 0.01
"""Of shrink and perturb: the paper's for warm starts."""
DASH_FORGET, DASH_LEAST = 0.3, 0.3
"""alpha of the mean of the gradients, lambda of the least factor: the paper's."""


# --- the data -------------------------------------------------------------------------------------------------------


@cache
def pictures(file: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32, 3) uint8 and (N,) int64."""
    with np.load(file) as found:
        return found[f"x_{split}"], found[f"y_{split}"].astype(np.int64)


def smaller(x: np.ndarray, size: Size) -> np.ndarray:  # (N, 32, 32, 3) -> (N, 3, side, side), uint8
    """The inner pixels, halved."""
    inner, side = slice(size.border, 32 - size.border), size.side
    pooled = x[:, inner, inner].reshape(len(x), side, 2, side, 2, 3).mean((2, 4)).round()
    return pooled.astype(np.uint8).transpose(0, 3, 1, 2).copy()


def phases(file: Path, setting: str, seed: int, size: Size) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of the first and of the second training. Validation and test data are always those of the second."""
    x, y = pictures(file, "train")
    images = size.images
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(x))[: images + VALIDATION]
    (x, x_val), (y, y_val) = np.split(smaller(x[chosen], size), [images]), np.split(y[chosen], [images])
    x_test, y_test = (array[:TEST] for array in pictures(file, "test"))
    rest = {"x_val": x_val, "y_val": y_val, "x_test": smaller(x_test, size), "y_test": y_test}
    first_x, first_y = x, y
    if setting == "half":
        first_x, first_y = x[: images // 2], y[: images // 2]
    elif setting == "noise":
        first_y = np.where(draw.random(images) < 0.5, draw.integers(0, 10, images), y)
    else:
        first_x, first_y = x[y < 5], y[y < 5]
    yield {"x_train": first_x, "y_train": first_y, **rest}
    yield {"x_train": x, "y_train": y, **rest}


def opened(arrays: Mapping[str, np.ndarray], seed: int, folder: Path, size: Size, steps: int) -> Stalled:
    """A new net on these data, and how it is trained."""
    np.savez(folder / "data.npz", **arrays)
    torch.manual_seed(seed)
    adam = {"name": "adam", "lr": 0.003}
    parts = {"opt_1": {"steps": steps // 2}, "opt_2": {"steps": steps // 4}, "train_3": {"steps": steps // 4}}
    prepared = prepare(
        from_dict(
            {
                "model": {
                    "arch": "zoo:digits_resnet",
                    "kwargs": {"widths": [*WIDTHS], "blocks": size.blocks, "channels": 3},
                    "input_shape": [3, size.side, size.side],
                },
                "data": {
                    "dataset": "arrays",
                    "root": str(folder / "data.npz"),
                    "batch_size": 32,
                    "normalize": {"mean": [0.49, 0.48, 0.45], "std": [0.24, 0.24, 0.25]},
                },
                "task": "classification",
                "bypass": {"optimizer": adam, "schedule": {"name": "cosine"}, **parts},
                "seed": seed,
            }
        ),
        None,
    )
    prepared.module.to(memory_format=torch.channels_last)  # a tenth faster here
    return stalled_model(prepared, create_accelerator("cpu", "no"))


# --- the ways of others: what each makes of the weights before the second training ---------------------------------


def weighted(module: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """The layers that have a matrix."""
    return [child for child in module.modules() if isinstance(child, nn.Conv2d | nn.Linear)]


@torch.no_grad()
def shrink_and_perturb(module: nn.Module, stalled: Stalled) -> None:
    """theta <- lambda theta + p, p ~ N(0, sigma^2)."""
    draw = torch.Generator().manual_seed(stalled.prepared.recipe.seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        parameter.mul_(SHRINK).add_(NOISE * noise)


def dash(module: nn.Module, stalled: Stalled) -> None:
    """w <- w max(lambda, cos(w, -g)): g is the running mean of the gradients of an epoch, w one kernel of a
    convolution, one row of a linear map, or a layer's biases."""
    names = {f"{name}.{kind}" for name, child in module.named_modules() if isinstance(child, nn.Conv2d | nn.Linear)
             for kind in ("weight", "bias")}  # fmt: skip
    weights = {name: p for name, p in module.named_parameters() if name in names}
    means = {name: torch.zeros_like(p) for name, p in weights.items()}
    module.train()
    for step in range(len(stalled.loader)):
        gradients = torch.autograd.grad(stalled.loss(module, stalled.loader.batch(step)), [*weights.values()])
        for mean, gradient in zip(means.values(), gradients, strict=True):
            mean.mul_(1 - DASH_FORGET).add_(DASH_FORGET * gradient)
    with torch.no_grad():
        for name, parameter in weights.items():
            rows = parameter.flatten(2) if parameter.dim() == 4 else parameter
            cosine = torch.cosine_similarity(rows, -means[name].reshape(rows.shape), dim=-1)
            parameter.mul_(cosine.clamp(min=DASH_LEAST).reshape(*cosine.shape, *[1] * (parameter.dim() - cosine.dim())))


@torch.no_grad()
def fire(module: nn.Module, stalled: Stalled) -> None:
    """W <- sqrt(d_out / d_in) / k times W's polar factor, of each of the k taps of a convolution by itself; the factor
    by ten steps of Newton and Schulz, X <- 1.5 X - 0.5 X X^T X from W / ||W||."""
    for layer in weighted(module):
        taps = layer.weight.reshape(*layer.weight.shape[:2], -1).permute(2, 0, 1)  # (k, out, in)
        found = taps / taps.flatten(1).norm(dim=1)[:, None, None].clamp_min(1e-30)
        for _ in range(10):
            found = 1.5 * found - 0.5 * found @ found.mT @ found
        found = found * (taps.shape[1] / taps.shape[2]) ** 0.5 / len(taps)
        layer.weight.copy_(found.permute(1, 2, 0).reshape(layer.weight.shape))


@torch.no_grad()
def redo(module: nn.Module, stalled: Stalled, step: int, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Dormant units of the blocks' inner activations get new incoming weights and outgoing zeros; how many were.

    A unit is dormant where its mean absolute activation is under a tenth of its layer's mean.
    """
    blocks = [child for child in module.modules() if isinstance(child, Block)]
    size = [0.0]
    seen: dict[int, Tensor] = {}
    handles = [
        block.conv2.register_forward_pre_hook(
            lambda _, given, at=at: seen.__setitem__(at, given[0].abs().mean((0, 2, 3)))
        )
        for at, block in enumerate(blocks)
    ]
    stalled.task.forward(module.eval(), stalled.loader.batch(step))
    module.train()
    for handle in handles:
        handle.remove()
    for at, block in enumerate(blocks):
        dormant = seen[at] <= REDO_DORMANT * seen[at].mean()
        size[0] += int(dormant.sum())
        fresh = copy.deepcopy(block.conv1)
        fresh.reset_parameters()
        block.conv1.weight[dormant] = fresh.weight[dormant]
        block.conv2.weight[:, dormant] = 0.0
        norm = block.bn1
        norm.weight[dormant], norm.bias[dormant] = 1.0, 0.0
        norm.running_mean[dormant], norm.running_var[dormant] = 0.0, 1.0
        if optimizer is None:
            continue
        for parameter, rows in ((block.conv1.weight, True), (block.conv2.weight, False)):
            state = optimizer.state.get(parameter, {})
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in state:
                    (state[moment] if rows else state[moment].transpose(0, 1))[dormant] = 0.0
    return int(size[0])


RESETS: dict[str, Callable[[nn.Module, Stalled], None]] = {
    "shrink and perturb": shrink_and_perturb,
    "DASH": dash,
    "FIRE": fire,
}


# --- a run ----------------------------------------------------------------------------------------------------------


def ended(stalled: Stalled, way: str, theta: Weights) -> nn.Module:
    """The net after the second training."""
    if way == "theta*":
        return stalled.model(theta)
    if way == "ReDo":
        return recycled(stalled, theta)
    begin, restarted = way.removesuffix(RESTARTED), way.endswith(RESTARTED)
    start, branch = theta, Branch("restart" if restarted else way if way in STRATEGIES else BASELINE)
    if begin == "from scratch":
        torch.manual_seed(1000 + stalled.prepared.recipe.seed)
        start = DigitsResNet(10, **stalled.prepared.recipe.model.kwargs).state_dict()
    elif begin in RESETS:
        module = stalled.model(theta)
        RESETS[begin](module, stalled)
        start = module.state_dict()
    weights = follow(stalled, branch, start).weights
    assert weights is not None, f"{way} gave no model"
    return stalled.model(weights)


def recycled(stalled: Stalled, theta: Weights) -> nn.Module:
    """Going on, with dormant units recycled at the start and again and again."""
    strategy = STRATEGIES[BASELINE](stalled.context(theta))
    trainer = stalled.trainer(strategy, stalled.spec.optimizer)
    redo(trainer.model, stalled, 0)
    for step in trainer:
        if (step.index + 1) % REDO_EVERY == 0 and not step.last:
            redo(trainer.model, stalled, step.index, trainer.optimizer)
    return trainer.model.eval()


@dataclass(frozen=True)
class Row:
    """One run: figures of the net on the test and on the validation data."""

    setting: str
    seed: int
    way: str
    accuracy: float
    loss: float
    validation: float
    calibrated: float


def measured(stalled: Stalled, setting: str, way: str, module: nn.Module) -> Row:
    test, validation = stalled.metrics(module, "test"), stalled.metrics(module, "validation")
    found = stalled.calibrated(module)
    calibrated = found.loss if found is not None else validation["loss"]
    seed = stalled.prepared.recipe.seed
    return Row(setting, seed, way, test["accuracy"], test["loss"], validation["loss"], calibrated)


WAYS = ("theta*", "going on", "from scratch", "restart", "shrink", *RESETS, "ReDo")
BEGINNINGS = tuple(f"{way}{RESTARTED}" for way in ("from scratch", "DASH", "FIRE"))


def run(file: Path, setting: str, seed: int, ways: Sequence[str], size: Size) -> Iterator[Row]:
    """These ways from one theta*."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = phases(file, setting, seed, size)
        first = opened(before, seed, Path(folder), size, size.before)
        second = opened(after, seed, Path(folder), size, size.steps)
    theta = ended(first, "going on", first.theta).state_dict()
    for way in ways:
        yield measured(second, setting, way, ended(second, way, theta))


# --- the summary ----------------------------------------------------------------------------------------------------


def chosen(rows: Mapping[str, Row]) -> Row:
    """What `extcon bypass` would keep of one seed's runs."""
    allowed = [rows["theta*"], *(rows[way] for way in OURS if rows[way].validation <= rows["theta*"].validation)]
    return min(allowed, key=lambda row: row.calibrated)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean, spread, wins and losses against going on, and the place of each way, by setting."""
    table: dict[str, Any] = {}
    for setting in SETTINGS:
        seeds = sorted({row.seed for row in rows if row.setting == setting})
        by_seed = [{row.way: row for row in rows if (row.setting, row.seed) == (setting, seed)} for seed in seeds]
        whole = [found for found in by_seed if set(WAYS) <= set(found)]
        if not whole:
            continue
        complete = [{**found, "ours": chosen(found)} for found in whole]
        shown = [way for way in complete[0] if all(way in found for found in complete)]
        means = {way: statistics.mean(found[way].accuracy for found in complete) for way in shown}
        ranked = sorted(
            (way for way in means if way not in (*OURS[1:], *BEGINNINGS, "theta*")), key=lambda way: -means[way]
        )
        lines = {}
        for way in means:
            accuracy = [100 * found[way].accuracy for found in complete]
            loss = [found[way].loss for found in complete]
            over = [100 * (found[way].accuracy - found["going on"].accuracy) for found in complete]
            lines[way] = {
                "accuracy": f"{spread(accuracy)}",
                "loss": f"{spread(loss)}",
                "points over going on": f"{spread(over)} ({sum(v > 0 for v in over)}/{sum(v < 0 for v in over)})",
                "place": ranked.index(way) + 1 if way in ranked else None,
            }
        kept = [found["ours"].way for found in complete]
        table[setting] = {"seeds": len(complete), "kept by ours": kept, "ways": lines}
    return table


def spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} +- {deviation:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--size", choices=SIZES, default="small")
    given = parser.parse_args()
    lines = given.results.read_text().splitlines() if given.results.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    there = {(row.setting, row.seed, row.way) for row in rows}
    groups = (WAYS, BEGINNINGS if given.size == "small" else BEGINNINGS[:1])
    with given.results.open("a") as results:
        for group, seed, setting in product(groups, range(given.seeds), given.settings.split(",")):
            ways = [way for way in group if (setting, seed, way) not in there]
            for row in run(given.cifar10, setting, seed, ways, SIZES[given.size]) if ways else ():
                print(json.dumps(vars(row)), file=results, flush=True)
                rows.append(row)
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
