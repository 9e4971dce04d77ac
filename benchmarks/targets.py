"""Budgets asked and met: MACs, parameters and bytes of networks with random weights, predicted beside measured.

    python benchmarks/targets.py resnet18 mobilenet_v2

Prints a row for each network, target and rounding; docs/results/targets.md has both roundings side by side. Nothing is
trained: channels are scored by their norms, since it is the budget that is looked at, not the accuracy.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.limits import Limits
from extcon_cli.catalyst.scores import magnitude, normalised
from extcon_cli.catalyst.target import decide_within, removed_counts
from extcon_cli.channels import channel_groups
from extcon_cli.checkpoint.architectures import build
from extcon_cli.pipelines.pruning.budget import Budget, measured, without
from extcon_cli.recipe.schema import TargetSpec
from extcon_cli.report.measure import measure

SIZES = {
    "torchvision:resnet18": 64, "torchvision:resnet50": 64, "torchvision:mobilenet_v2": 64,
    "torchvision:mobilenet_v3_small": 64, "torchvision:efficientnet_b0": 64, "torchvision:vgg11_bn": 64,
    "torchvision:regnet_y_400mf": 64, "torchvision:densenet121": 64, "torchvision:shufflenet_v2_x1_0": 64,
    "torchvision:convnext_tiny": 64, "timm:vit_tiny_patch16_224": 224, "timm:mixer_s32_224": 224,
}  # fmt: skip
"""Input sizes by architecture."""
SHARES = (TargetSpec(macs=0.5), TargetSpec(macs=0.25), TargetSpec(params=0.5))
"""Beside a number of megabytes: three tenths of what the network has."""
ROUNDED = (1, 8)


@dataclass(frozen=True)
class Row:
    """One budget of one network."""

    model: str
    target: str
    round_to: int
    budget: float
    predicted: float
    measured: float
    original: float
    step: float  # the least that would be left with the last step of one group undone
    filters: float
    seconds: float

    def markdown(self) -> str:
        """As a line of a table."""
        share, reached = self.budget / self.original, self.measured / self.original
        exact = "yes" if self.predicted == self.measured else f"no: {self.predicted:.0f}"
        met = "yes" if self.measured <= self.budget < self.step else "NO"
        return (
            f"| {self.model} | {self.target} | {self.round_to} | {share:.4f} | {reached:.4f} | {met} | {exact} "
            f"| {100 * self.filters:.1f} % | {self.seconds:.2f} |"
        )


def rows(name: str) -> list[Row]:
    """All targets of one network."""
    torch.manual_seed(0)
    example = (torch.randn(2, 3, SIZES[name], SIZES[name]),)
    module: nn.Module = build(name, {}, trust_code=False).eval()
    channels = channel_groups(module, example)
    filters = Filters.of(channels.groups)
    values = normalised(magnitude(module, filters), filters)
    whole = measure(module, example)
    found = []
    for target in (*SHARES, TargetSpec(size=f"{whole.bytes * 0.3 / 1e6:.2f}MB")):
        budget = Budget.of(target, whole)
        cost = budget.cost(module, channels, {})
        for round_to in ROUNDED:
            limits, began = Limits(round_to=round_to), time.perf_counter()
            mask = decide_within(values, filters, cost, budget.limit, limits)
            seconds, counts = time.perf_counter() - began, removed_counts(filters, mask)
            left = measured(budget.quantity, measure(without(module, channels, filters.masks(mask)), example))
            back = [counts - number * np.eye(len(counts))[group] for group, number in _steps(filters, limits, counts)]
            step = min((cost.total(other) for other in back), default=float("inf"))
            name_asked = f"{budget.quantity} {budget.asked}", round_to
            figures = budget.limit, cost.total(counts), left, budget.original, step, float(mask.float().mean()), seconds
            found.append(Row(name.partition(":")[2], *name_asked, *figures))
    return found


def _steps(filters: Filters, limits: Limits, counts: np.ndarray) -> list[tuple[int, float]]:
    """Each group with something to put back, and how many channels its last step took."""
    steps = []
    for number, group in enumerate(filters.groups):
        stops = limits.stops(group).tolist()
        at = stops.index(int(counts[number]))
        if at:
            steps.append((number, float(stops[at] - stops[at - 1])))
    return steps


def main() -> None:
    """Print the rows of the networks named; all of them where none is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="Part of an architecture's name.")
    wanted = parser.parse_args().models
    warnings.simplefilter("ignore")
    print("| network | target | round_to | asked | reached | within one step | predicted exactly | filters | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in (name for name in SIZES if not wanted or any(part in name for part in wanted)):
        for row in rows(name):
            print(row.markdown(), flush=True)


if __name__ == "__main__":
    main()
