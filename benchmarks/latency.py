"""Budgets of latency asked and met in each runtime, predicted beside measured, realised beside theoretical speed-up.

    python benchmarks/latency.py resnet50 mobilenet_v3_large --runtime onnxruntime openvino
    python benchmarks/latency.py resnet50 --macs --others

Prints a row for each network and runtime; docs/results/latency.md has them side by side. Nothing is trained: channels
are scored by their energy on random images, and latency does not ask what weights are. With --macs the budget is one
of MACs, in widths of any number, of multiples of 8, and of what the device's table of layers says; with --others
Torch-Pruning's network of as many MACs is measured beside (pip install torch-pruning).
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.limits import Limits
from extcon_cli.catalyst.scores import energy
from extcon_cli.catalyst.target import decide_within
from extcon_cli.channels import Channels, Masks, channel_groups
from extcon_cli.channels.compare import Inputs
from extcon_cli.checkpoint.architectures import build
from extcon_cli.errors import GateError
from extcon_cli.events import Event, Progress
from extcon_cli.pipelines.pruning.budget import Budget, without
from extcon_cli.pipelines.pruning.latency_target import (
    Timing,
    Trial,
    candidates,
    chosen,
    finer,
    timing,
    within_latency,
)
from extcon_cli.pipelines.running.measure import latency
from extcon_cli.recipe.schema import LatencySpec, TargetSpec
from extcon_cli.report.measure import measure

SHAPES = {
    "torchvision:resnet18": (3, 224, 224), "torchvision:resnet50": (3, 224, 224),
    "torchvision:mobilenet_v3_large": (3, 224, 224), "torchvision:mobilenet_v2": (3, 224, 224),
    "torchvision:vgg11_bn": (3, 224, 224), "torchvision:densenet121": (3, 224, 224),
    "torchvision:efficientnet_b0": (3, 224, 224), "timm:vit_tiny_patch16_224": (3, 224, 224),
    "timm:deit_small_patch16_224": (3, 224, 224), "zoo:digits_resnet": (1, 8, 8),
}  # fmt: skip
"""Input shapes by architecture."""
BATCHES = 2
"""Of four random images, on which channels are scored."""


@dataclass(frozen=True)
class Net:
    """A network with random weights, its channels scored by their energy on random images."""

    name: str
    module: nn.Module
    example: Inputs
    channels: Channels
    filters: Filters
    values: torch.Tensor  # (n,)

    @classmethod
    def of(cls, name: str) -> Net:
        """By its architecture."""
        torch.manual_seed(0)
        example = (torch.randn(2, *SHAPES[name]),)
        module = build(name, {}, trust_code=False).eval()
        channels = channel_groups(module, example)
        filters = Filters.of(channels.groups)
        values = worth(module, filters, example[0])
        return cls(name.partition(":")[2], module, example, channels, filters, values)

    def cut(self, masks: Masks) -> nn.Module:
        """A copy without these channels."""
        return without(self.module, self.channels, masks)


def worth(module: nn.Module, filters: Filters, image: torch.Tensor) -> torch.Tensor:
    """The energy of each filter on random images with random labels: (n,)."""

    def loss(_: int) -> torch.Tensor:
        outputs = module(torch.randn(4, *image.shape[1:]))
        return nn.functional.cross_entropy(outputs, torch.randint(0, outputs.shape[1], (4,)))

    return energy(module, filters, iter(range(BATCHES)), loss)


def budgets(net: Net, spec: LatencySpec, shares: list[float], round_to: int | None) -> Iterator[str]:
    """A row for each budget of latency: asked, predicted by the table alone, measured, reached, and the speed-ups."""
    began = time.monotonic()
    known = timing(net.module, net.channels, net.example, spec)
    table = time.monotonic() - began
    for share in shares:
        began, trials = time.monotonic(), list[Trial]()

        def heard(event: Event, seen: list[Trial] = trials) -> None:
            if isinstance(event, Progress) and event.phase == "budget":
                seen.append(Trial(event.metrics["predicted"], event.metrics["left"], torch.zeros(0)))

        limits = candidates(Limits(floor=0.1), net.channels, finer(known.multiple) if round_to is None else [round_to])
        try:
            mask = within_latency(
                share, known, net.values, net.filters, limits, net.module, net.cut, net.example,
                seconds=spec.seconds, emit=heard,
            )  # fmt: skip
        except GateError as error:
            yield f"| {net.name} | {spec.runtime} | {share} | missed: {error} |"
            continue
        best = chosen(trials, share)
        assert best is not None
        seconds, first = time.monotonic() - began, trials[0]
        row = realised(net, net.cut(net.filters.masks(mask)), known, spec)
        yield (
            f"| {net.name} | {spec.runtime} | {1e3 * known.seconds:.1f} ms | {share} | {round_to or known.multiple} "
            f"| {first.predicted:.3f} | {first.measured:.3f} | {len(trials)} | {best.measured:.3f} | {row} "
            f"| {table:.0f} | {seconds:.0f} |"
        )


def realised(net: Net, smaller: nn.Module, known: Timing, spec: LatencySpec) -> str:
    """Left of the latency (with its spread) and of the MACs, and the one speed-up as a share of the other."""
    found = latency((net.module, smaller), net.example, known.setting, 5 * spec.seconds)
    macs = measure(smaller, net.example).macs / measure(net.module, net.example).macs
    left = found.ratio
    spread = f"{left.median:.3f} ({left.low:.3f} to {left.high:.3f})"
    return f"{spread} | {macs:.3f} | {1 / left.median:.2f} | {1 / macs:.2f} | {macs / left.median:.2f}"


def by_macs(net: Net, spec: LatencySpec, share: float, others: bool) -> Iterator[str]:
    """A row for a budget of MACs in each rounding, and one of Torch-Pruning's network of as many MACs."""
    known = timing(net.module, net.channels, net.example, spec)
    budget = Budget.of(TargetSpec(macs=share), measure(net.module, net.example))
    cost = budget.cost(net.module, net.channels, {})
    for said, round_to in (("any width", 1), ("multiples of 8", 8), (f"auto: {known.multiple}", known.multiple)):
        mask = decide_within(net.values, net.filters, cost, budget.limit, Limits(floor=0.1, round_to=round_to))
        smaller = net.cut(net.filters.masks(mask))
        yield f"| {net.name} | {spec.runtime} | extcon, {said} | {realised(net, smaller, known, spec)} |"
    if others:
        for said, round_to in (("any width", None), ("multiples of 8", 8)):
            smaller = torch_pruned(net, share, round_to)
            yield f"| {net.name} | {spec.runtime} | Torch-Pruning, {said} | {realised(net, smaller, known, spec)} |"


def torch_pruned(net: Net, share: float, round_to: int | None) -> nn.Module:
    """Torch-Pruning's network, by the norms of its channels in each layer, with about this share of the MACs."""
    import copy

    import torch_pruning

    whole, low, high = measure(net.module, net.example).macs, 0.0, 0.9
    best = net.module
    for _ in range(8):
        ratio = (low + high) / 2
        module = copy.deepcopy(net.module)
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        heads = {
            layer.qkv: layer.num_heads
            for layer in module.modules()
            if hasattr(layer, "qkv") and hasattr(layer, "num_heads")
        }
        pruner = torch_pruning.pruner.MagnitudePruner(
            module,
            net.example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[last],
            round_to=round_to,
            num_heads=heads,
        )
        pruner.step()
        for layer in module.modules():  # timm's attention reshapes by its own numbers
            if hasattr(layer, "qkv") and hasattr(layer, "head_dim"):
                layer.num_heads = pruner.num_heads[layer.qkv]
                layer.head_dim = layer.qkv.out_features // (3 * layer.num_heads)
                layer.attn_dim = layer.num_heads * layer.head_dim
        left = measure(module, net.example).macs / whole
        if left > share:
            low = ratio
        else:
            high, best = ratio, module
    return best.eval()


def main() -> None:
    """Print the rows of the networks named; all of them where none is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="Part of an architecture's name.")
    parser.add_argument("--runtime", nargs="+", default=["onnxruntime"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5])
    parser.add_argument("--round-to", type=int, help="In the place of what the table of layers says.")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--macs", type=float, nargs="?", const=0.5, help="A budget of MACs in the place of latency.")
    parser.add_argument("--others", action="store_true", help="Torch-Pruning's networks too.")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} thread(s), batches of {given.batch_size}")
    for name in (name for name in SHAPES if not given.models or any(part in name for part in given.models)):
        net = Net.of(name)
        for runtime in given.runtime:
            spec = LatencySpec(runtime=runtime, batch_size=given.batch_size)
            rows = (
                by_macs(net, spec, given.macs, given.others)
                if given.macs
                else budgets(net, spec, given.shares, given.round_to)
            )
            try:
                for row in rows:
                    print(row, flush=True)
            except Exception as error:
                print(f"| {net.name} | {runtime} | failed: {type(error).__name__}: {error} |", flush=True)


if __name__ == "__main__":
    main()
