"""Seconds of CPU of exact removal beside Torch-Pruning's whole run.

    python benchmarks/removal_times.py                              # the 13 networks of the table
    python benchmarks/removal_times.py 'timm:*' 'torchvision:*' --runs 1

One thread, one process, in turn on the same network; each network is run once before by both, for what is imported or
cached on first use. Ours is trace, groups, plan and removal; the dry run, which Torch-Pruning does not have, is said
apart. CPU seconds, since wall time says little on a machine that others use. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

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
OURS = ("trace", "groups", "plan", "remove")

T = TypeVar("T")


def once(name: str) -> dict[str, float]:
    """Seconds of each part, and of Torch-Pruning's run."""
    torch.manual_seed(0)
    module, example = models()[name]()
    draw(module)
    other, spent = copy.deepcopy(module), dict[str, float]()

    def timed(part: str, run: Callable[[], T]) -> T:
        gc.collect()
        began = time.process_time()
        result = run()
        spent[part] = time.process_time() - began
        return result

    graph = timed("trace", lambda: trace(module, example))
    groups = timed("groups", lambda: analyse(module, graph))
    channels = timed("dry run", lambda: dry_run(module, groups, example))
    before = duplicate(module)
    halved(before, channels)
    plan = timed("plan", lambda: plan_removal(before, channels))
    timed("remove", lambda: remove(before, plan))
    timed("others", lambda: _halved(other, example))
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS, help="names or patterns of benchmarks/removal.py's networks")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = [name for name in models() if any(fnmatch.fnmatch(name, pattern) for pattern in given.nets)]
    gc.collect()
    gc.freeze()  # what the libraries hold is searched for garbage in neither part
    medians: dict[str, list[float]] = {"without the dry run": [], "with it": []}
    for name in names:
        try:
            once(name)
            runs = [once(name) for _ in range(given.runs)]
        except Exception as error:  # either library gives up on some networks
            print(f"{name:32} {type(error).__name__}: {str(error).strip().splitlines()[:1]}", flush=True)
            continue
        ours = [sum(run[part] for part in OURS) for run in runs]
        found = {
            "without the dry run": [mine / run["others"] for mine, run in zip(ours, runs, strict=True)],
            "with it": [(mine + run["dry run"]) / run["others"] for mine, run in zip(ours, runs, strict=True)],
        }
        parts = "  ".join(f"{part} {1000 * statistics.median(run[part] for run in runs):.0f}" for part in runs[0])
        print(f"{name:32} ms: {parts}", end="")
        for what, ratios in found.items():
            medians[what].append(statistics.median(ratios))
            print(f"  {what} x{medians[what][-1]:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", end="")
        print(flush=True)
    for what, each in medians.items():
        print(f"{what}: {len(each)} networks, median x{statistics.median(each):.2f}, worst x{max(each):.2f}")


if __name__ == "__main__":
    main()
