"""What Catalyst costs in a training step: `python benchmarks/cost.py [--arch resnet18] [--size 32] [--batch 128]`.

One process trains the same model with and without the bifurcation, step by step in turn, so that whatever else the
machine does hits both. Printed: the medians in milliseconds, and the share that Catalyst adds: the flow, and the
compensation (least squares along the flow). The goal is under 3 % on ResNet-18 at batch 128.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torchvision
from torch.nn import functional

from extcon_cli.catalyst.bifurcation import Flow
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.local_hand_over import fit_compensation
from extcon_cli.channels import channel_groups

EVERY = 50
"""Steps between two moves of the compensation, as `extcon prune` makes them where the flow takes 1000 steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=32, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    model = torchvision.models.get_model(args.arch, weights=None, num_classes=10).to(args.device)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    labels = torch.randint(10, (args.batch,), device=args.device)
    channels = channel_groups(model, (images[:2],))
    filters = Filters.of(channels.groups)
    decided = torch.rand(len(filters)) < 0.5
    flow = Flow(model, filters, decided, steps=1000)
    compensation = fit_compensation(model, channels, filters, decided, [images], model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def train() -> None:
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    def timed(work: Callable[[], object]) -> float:
        if args.device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if args.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    model.train()
    took: dict[str, list[float]] = {"step": [], "flow": [], "compensation": []}
    for _ in range(args.steps + 3):
        took["step"].append(timed(train))
        took["flow"].append(timed(lambda: flow.step(1e-3)))
        took["compensation"].append(timed(lambda: compensation.step(torch.zeros_like(flow.share))) / EVERY)
    print(f"{args.arch}, {args.size} px, batch {args.batch}, {args.device}, {len(filters)} filters")
    base = median(took["step"][3:])
    for name, seconds in took.items():
        print(f"{name:<18} {1e3 * median(seconds[3:]):9.2f} ms  {100 * median(seconds[3:]) / base:7.2f} %")


if __name__ == "__main__":
    main()
