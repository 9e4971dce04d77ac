"""Seconds of CPU of exact removal beside Torch-Pruning's whole run: `python benchmarks/removal_times.py [--runs 3]`.

One thread, one process, in turn on the same network; the first network is run once before, for what is imported on
first use. Ours is trace, groups, plan and removal; the dry run, which Torch-Pruning does not have, is said apart. CPU
seconds, since wall time says little on a machine that others use. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import time
import warnings

import torch
from removal import draw, halved, models
from removal_others import _halved

from extcon_cli.channels import plan_removal, remove
from extcon_cli.channels.analysis.groups import analyse
from extcon_cli.channels.analysis.trace import trace
from extcon_cli.channels.dry_run import dry_run
from extcon_cli.channels.preserving import duplicate

NETS = (
    "torchvision:resnet18", "torchvision:resnet50", "torchvision:vgg11_bn", "torchvision:densenet121",
    "torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small", "torchvision:efficientnet_b0",
    "torchvision:googlenet", "torchvision:squeezenet1_1", "torchvision:mnasnet1_0", "torchvision:regnet_y_400mf",
    "torchvision:convnext_tiny", "transformers:bert",
)  # fmt: skip


def once(name: str) -> tuple[float, float, float]:
    """Ours without the dry run, the dry run, Torch-Pruning's run."""
    torch.manual_seed(0)
    module, example = models()[name]()
    draw(module)
    other = copy.deepcopy(module)
    gc.collect()
    marks = [time.process_time()]
    graph = trace(module, example)
    groups = analyse(module, graph)
    marks.append(time.process_time())
    channels = dry_run(module, groups, example)
    marks.append(time.process_time())
    before = duplicate(module)
    halved(before, channels)
    gc.collect()
    began = time.process_time()
    remove(before, plan_removal(before, channels))
    ours = marks[1] - marks[0] + time.process_time() - began
    gc.collect()
    began = time.process_time()
    _halved(other, example)
    return ours, marks[2] - marks[1], time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    once(given.nets[0])
    ratios = []
    for name in given.nets:
        ours, dry, others = (
            statistics.median(part) for part in zip(*(once(name) for _ in range(given.runs)), strict=True)
        )
        ratios.append((ours / others, (ours + dry) / others))
        print(f"{name:32} {ours:.3f} s, dry run {dry:.3f} s; Torch-Pruning {others:.3f} s", end="")
        print(f"  x{ratios[-1][0]:.2f}, with the dry run x{ratios[-1][1]:.2f}", flush=True)
    for place, what in enumerate(("without the dry run", "with it")):
        found = [ratio[place] for ratio in ratios]
        print(f"{what}: median x{statistics.median(found):.2f}, worst x{max(found):.2f}")


if __name__ == "__main__":
    main()
