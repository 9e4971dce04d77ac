"""The training loop against hand-written ones: `python benchmarks/training.py [--device cuda] [--chunks 15]`.

One run for each model and each setting of the switches: extcon's whole phase (loop, events, run directory) takes a
chunk of steps, then a plain PyTorch loop with the same switches the same number, in turn, so that whatever else the
machine does hits both. Printed: the medians in milliseconds a step, and the median of the ratios of neighbouring
chunks, where 1.00 is as fast as by hand. On a CPU seconds of this process count, which others' work touches less than
wall time.

By hand: `indexed` keeps the set on the device and takes batches by a random order, as extcon does; `loader` is the
usual DataLoader over a TensorDataset. All normalise, none augments: SGD with momentum, cosine schedule. extcon saves a
resumable state now and then, at most one hundredth of the time by its own rule; medians leave that out.

`--teacher` measures instead what distilling costs: a step of extcon's loop with no teacher, with one, and with one
whose outputs are looked up (no augmentation: after the first epoch all are).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
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
from extcon_cli.pipelines.running import phase as phases
from extcon_cli.pipelines.running.phase import run_phase, tee_events
from extcon_cli.recipe.schema import DistillSpec, NormalizeSpec, OptimizerSpec, Recipe, TrainSpec
from extcon_cli.tasks import Classification
from extcon_cli.training import run_directory
from extcon_cli.training import teacher as teachers
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.loop import Step, Trainer
from extcon_cli.training.objective import objective
from extcon_cli.training.run_directory import RunDirectory
from extcon_cli.training.speed import PLAIN, Speed

MEAN, STD = 0.3, 0.4
SETTINGS = {
    "plain": PLAIN,
    "bf16": Speed("bf16"),
    "channels_last": Speed(channels_last=True),
    "bf16+channels_last": Speed("bf16", channels_last=True),
    "compile": Speed(compile=True),
}


class SmallTransformer(nn.Module):
    """A ViT of four layers of 128 channels on 64 patches of 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 128, 4, 4)
        self.places = nn.Parameter(torch.zeros(1, 64, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 32, 32) -> (N, 10)
        tokens = self.patches(x).flatten(2).mT + self.places
        out: Tensor = self.head(self.layers(tokens).mean(1))
        return out


@dataclass(frozen=True)
class Model:
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    chunk: int
    """Steps that are taken in turn."""


MODELS = {
    "digits_resnet": Model(lambda: build("zoo:digits_resnet", {}), (1, 8, 8), 128, 20),
    "resnet20": Model(lambda: build("zoo:cifar_resnet20", {}), (3, 32, 32), 128, 2),
    "transformer": Model(SmallTransformer, (3, 32, 32), 64, 2),
    "resnet18": Model(lambda: build("torchvision:resnet18", {"num_classes": 10}), (3, 32, 32), 128, 2),
}


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds of this process on a CPU, else of the world outside once the device is done."""

    def now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return now if device.type == "cuda" else time.process_time


def indexed(x: Tensor, y: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a set on the device, normalised."""
    while True:
        order = torch.randperm(len(x)).to(x.device)
        for part in order.split(batch):
            yield (x[part].float() / 255 - MEAN) / STD, y[part]


def loader(x: Tensor, y: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same through a DataLoader of this process."""
    device = x.device
    batches = DataLoader(TensorDataset(x.cpu(), y.cpu()), batch, shuffle=True, drop_last=True)
    while True:
        for images, labels in batches:
            yield (images.to(device).float() / 255 - MEAN) / STD, labels.to(device)


def by_hand(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], total: int, speed: Speed
) -> Callable[[int], None]:
    """A function that takes so many steps more."""
    sgd = SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    schedule = CosineAnnealingLR(sgd, total)
    model.train()
    forward = torch.compile(model) if speed.compile else model

    def go(steps: int) -> None:
        for _ in range(steps):
            x, y = next(batches)
            if speed.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=speed.precision == "bf16"):
                outputs = forward(x)
            functional.cross_entropy(outputs.float(), y).backward()
            sgd.step()
            sgd.zero_grad()
            schedule.step()

    return go


class OwnTime:
    """In the place of the module `time`: intervals between saves and shown figures as on a machine that is free."""

    monotonic = perf_counter = staticmethod(time.process_time)


def phase(
    kind: Model,
    data: tuple[Tensor, Tensor],
    total: int,
    speed: Speed,
    after_step: Callable[[Step], None],
    *,
    taught: bool = False,
) -> None:
    """A whole phase of extcon, with its events and its run directory."""
    device = data[0].device
    spec = TrainSpec(steps=total, optimizer=OptimizerSpec(lr=0.05), distill=DistillSpec() if taught else None)
    batches = InMemoryLoader(
        *data, kind.batch, device=device, normalize=NormalizeSpec(mean=(MEAN,), std=(STD,)), shuffle=True
    )
    trainer = Trainer(
        kind.build().to(device),
        batches,
        spec,
        objective=objective(Classification(), distill=spec.distill),
        accelerator=create_accelerator(str(device)),
        speed=speed,
        teacher=kind.build().to(device).requires_grad_(False) if taught else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "out.run", Recipe(), {})
        run.begin(resume=False)
        run_phase("train", "Training", trainer, emit=tee_events(ignore, run), run=run, after_step=after_step)


def samples(kind: Model, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    x = torch.randint(256, (number, *kind.shape), dtype=torch.uint8, device=device)
    return x, torch.randint(10, (number,), device=device)


def measure(kind: Model, speed: Speed, chunks: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds a step of each chunk, by the name of the loop."""
    data, total, now = samples(kind, 20 * kind.batch, device), kind.chunk * (chunks + 1), clock(device)
    others = {
        name: by_hand(kind.build().to(device), batches(*data, kind.batch), total, speed)
        for name, batches in (("indexed", indexed), ("loader", loader))
    }
    taken: dict[str, list[float]] = {"extcon": [], **{name: [] for name in others}}
    began = now()

    def in_turn(step: Step) -> None:
        nonlocal began
        if (step.index + 1) % kind.chunk:
            return
        taken["extcon"].append((now() - began) / kind.chunk)
        for name, go in others.items():
            began = now()
            go(kind.chunk)
            taken[name].append((now() - began) / kind.chunk)
        began = now()

    phase(kind, data, total, speed, in_turn)
    return {name: seconds[1:] for name, seconds in taken.items()}  # the first chunk warms up


def teaching(kind: Model, steps: int, device: torch.device) -> dict[str, float]:
    """Median seconds a step: without a teacher, computed, looked up; runs of each in turn."""
    data, now = samples(kind, 3 * kind.batch, device), clock(device)
    taken: dict[str, list[float]] = {"no teacher": [], "computed": [], "looked up": []}
    most = teachers.MOST_BYTES
    for name in [*taken] * 3:
        ends: list[float] = []
        teachers.MOST_BYTES = most if name == "looked up" else 0
        phase(kind, data, steps + 6, PLAIN, lambda _: ends.append(now()), taught=name != "no teacher")  # noqa: B023
        ends = ends[6:]  # two epochs
        taken[name] += [b - a for a, b in pairwise(ends)]
    teachers.MOST_BYTES = most
    return {name: median(seconds) for name, seconds in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chunks", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="*", default=["digits_resnet", "resnet20", "transformer"], choices=MODELS)
    parser.add_argument("--switches", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--teacher", action="store_true")
    options = parser.parse_args()
    if options.device == "cpu":
        phases.time = run_directory.time = OwnTime  # type: ignore[assignment]
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads\n")
    if options.teacher:
        print("| model | no teacher ms | computed ms | looked up ms |\n|---|---|---|---|")
        for name in options.models:
            found = teaching(MODELS[name], options.chunks, device)
            print(f"| {name} | {' | '.join(f'{1e3 * seconds:.2f}' for seconds in found.values())} |", flush=True)
        return
    print("| model | switches | extcon ms | indexed ms | loader ms | speed against indexed | against loader |")
    print("|---|---|---|---|---|---|---|")
    for name in options.models:
        for switches in options.switches:
            taken = measure(MODELS[name], SETTINGS[switches], options.chunks, device)
            columns = [f"{1e3 * median(seconds):.2f}" for seconds in taken.values()]
            pairs = (zip(taken[other], taken["extcon"], strict=True) for other in ("indexed", "loader"))
            ratios = [f"{median(theirs / ours for theirs, ours in pair):.3f}" for pair in pairs]
            print(f"| {name} | {switches} | {' | '.join([*columns, *ratios])} |", flush=True)


if __name__ == "__main__":
    main()
