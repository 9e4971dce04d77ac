"""The training loop against hand-written ones: `python benchmarks/training.py [--device cuda] [--chunks 15]`.

One run for each model: extcon's whole phase (loop, events, run directory) takes a chunk of steps, then a plain
PyTorch loop the same number, in turn, so that whatever else the machine does hits both. Printed: the medians in
milliseconds a step, and the ratio of speeds, where 1.00 is as fast as by hand.

By hand: `indexed` keeps the set on the device and takes batches by a random order, as extcon does; `loader` is the
usual DataLoader over a TensorDataset. All normalise, none augments: batch 128, SGD with momentum, cosine schedule.
extcon saves a resumable state now and then, at most one hundredth of the time by its own rule; medians leave that out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from extcon_cli.checkpoint.architectures import build
from extcon_cli.data.loader import InMemoryLoader
from extcon_cli.events import ignore
from extcon_cli.pipelines.running.phase import run_phase, tee_events
from extcon_cli.recipe.schema import NormalizeSpec, OptimizerSpec, Recipe, TrainSpec
from extcon_cli.tasks import Classification
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.loop import Step, Trainer
from extcon_cli.training.objective import objective
from extcon_cli.training.run_directory import RunDirectory

MODELS = {
    "digits_resnet, 1x8x8": ("zoo:digits_resnet", (1, 8, 8), 40),
    "resnet18, 3x32x32": ("torchvision:resnet18", (3, 32, 32), 5),
}
BATCH, SAMPLES, MEAN, STD = 128, 2560, 0.3, 0.4


def indexed(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a set on the device, normalised."""
    while True:
        order = torch.randperm(len(x)).to(x.device)
        for part in order.split(BATCH):
            yield (x[part].float() / 255 - MEAN) / STD, y[part]


def loader(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same through a DataLoader of this process."""
    device = x.device
    batches = DataLoader(TensorDataset(x.cpu(), y.cpu()), BATCH, shuffle=True, drop_last=True)
    while True:
        for images, labels in batches:
            yield (images.to(device).float() / 255 - MEAN) / STD, labels.to(device)


def by_hand(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], total: int) -> Callable[[int], None]:
    """A function that takes so many steps more."""
    sgd = SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = CosineAnnealingLR(sgd, total)
    model.train()

    def go(steps: int) -> None:
        for _ in range(steps):
            x, y = next(batches)
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            sgd.step()
            sgd.zero_grad()
            schedule.step()

    return go


def measure(arch: str, shape: tuple[int, ...], chunk: int, chunks: int, device: torch.device) -> dict[str, float]:
    """Median seconds a step, by the name of the loop."""
    x = torch.randint(256, (SAMPLES, *shape), dtype=torch.uint8, device=device)
    y = torch.randint(10, (SAMPLES,), device=device)
    total = chunk * (chunks + 1)
    models = [build(arch, {"num_classes": 10}).to(device) for _ in range(3)]
    others = {
        "indexed": by_hand(models[1], indexed(x, y), total),
        "loader": by_hand(models[2], loader(x, y), total),
    }
    taken: dict[str, list[float]] = {"extcon": [], **{name: [] for name in others}}
    began = time.perf_counter()

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def in_turn(step: Step) -> None:
        nonlocal began
        if (step.index + 1) % chunk:
            return
        taken["extcon"].append((now() - began) / chunk)
        for name, go in others.items():
            began = now()
            go(chunk)
            taken[name].append((now() - began) / chunk)
        began = now()

    batches = InMemoryLoader(
        x, y, BATCH, device=device, normalize=NormalizeSpec(mean=(MEAN,), std=(STD,)), shuffle=True
    )
    spec = TrainSpec(steps=total, optimizer=OptimizerSpec(lr=0.05))
    goal = objective(Classification())
    trainer = Trainer(models[0], batches, spec, objective=goal, accelerator=create_accelerator(str(device)))
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "out.run", Recipe(), {})
        run.begin(resume=False)
        run_phase("train", "Training", trainer, emit=tee_events(ignore, run), run=run, after_step=in_turn)
    return {name: median(seconds[1:]) for name, seconds in taken.items()}  # the first chunk warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chunks", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, batch {BATCH}\n")
    print("| model | extcon ms | indexed ms | loader ms | speed against indexed | against loader |")
    print("|---|---|---|---|---|---|")
    for name, (arch, shape, chunk) in MODELS.items():
        found = measure(arch, shape, chunk, options.chunks, torch.device(options.device))
        columns = [f"{seconds * 1e3:.2f}" for seconds in found.values()]
        ratios = [f"{found[other] / found['extcon']:.3f}" for other in ("indexed", "loader")]
        print(f"| {name} | {' | '.join([*columns, *ratios])} |")


if __name__ == "__main__":
    main()
