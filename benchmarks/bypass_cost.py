"""What an extension costs in a training step: `python benchmarks/bypass_cost.py [--steps 20]`.

One process takes plain and extended steps in turn on the same batch, so that whatever else the machine does hits both.
Strict: DeepOBS' 2c2d, D between its dense layers. Relaxed: torchvision's ResNet-18 on 32 px, D at every ReLU. Batch
128, SGD with momentum; opt_2 adds a step of the radius contraction. Printed: medians and the share added, pair by pair.
The goal is under 5 % on ResNet-18.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.bypass.contraction import ContractionSchedule
from extcon_cli.bypass.extension import extend
from extcon_cli.checkpoint.zoo import ZOO

MODELS = {
    "2c2d, strict": lambda: ZOO["deepobs_2c2d"].build(),
    "resnet18, relaxed": lambda: torchvision.models.resnet18(num_classes=10),
}


def timed(
    module: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], back: ContractionSchedule | None
) -> float:
    """Seconds of one step: on a CPU of this process, which others' work touches less than wall time."""
    clock = time.perf_counter if batch[0].is_cuda else time.process_time
    began = clock()
    functional.cross_entropy(module(batch[0]), batch[1]).backward()
    optimizer.step()
    optimizer.zero_grad()
    if back is not None:
        back.step(1e-3)
    if batch[0].is_cuda:
        torch.cuda.synchronize()
    return clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    given = parser.parse_args()
    for name in given.models:
        make = MODELS[name]
        torch.manual_seed(0)
        model = make().to(given.device).train()
        x = torch.randn(given.batch, 3, 32, 32, device=given.device)
        batch = x, torch.randint(10, (given.batch,), device=given.device)
        extended = extend(model, (x[:2],), form="strict" if "strict" in name else "relaxed").train()
        back = ContractionSchedule(extended, steps=10**6)
        plain = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        more = torch.optim.SGD([*model.parameters(), *extended.deltas], lr=1e-4, momentum=0.9)
        took: dict[str, list[float]] = {"plain": [], "opt_1": [], "opt_2": []}
        for _ in range(given.steps + 3):
            took["plain"].append(timed(model, plain, batch, None))
            took["opt_1"].append(timed(extended, more, batch, None))
            took["opt_2"].append(timed(extended, more, batch, back))
        base = took["plain"][3:]
        print(f"{name} at {len(extended.sites)} sites, batch {given.batch}, {given.device}")
        for phase, seconds in took.items():
            share = 100 * (median(mine / plain for mine, plain in zip(seconds[3:], base, strict=True)) - 1)
            print(f"  {phase:<6} {1e3 * median(seconds[3:]):9.2f} ms  {share:+6.2f} %")


if __name__ == "__main__":
    main()
