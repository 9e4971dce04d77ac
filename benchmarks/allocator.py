"""What keeping freed memory saves of a training step on a CPU: `python benchmarks/allocator.py [--rounds 3]`.

Processes take turns, one with glibc's malloc as it begins and one with what training sets
(`extcon_cli.allocator.py`); each takes some steps of a plain loop at batch 128. Printed: the medians over the
rounds of milliseconds of the process a step, page faults a step, and the peak of its memory. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from statistics import median

import torch
from torch.nn import functional

from extcon_cli.allocator import keeping_freed_memory
from extcon_cli.checkpoint.architectures import build

MODELS = {
    "digits_resnet": ("zoo:digits_resnet", {}, (1, 8, 8), 60),
    "resnet20": ("zoo:cifar_resnet20", {}, (3, 32, 32), 6),
    "resnet18": ("torchvision:resnet18", {"num_classes": 10}, (3, 32, 32), 6),
}
"""Architecture, its arguments, shape of an image, steps."""
BATCH = 128


def steps(name: str, *, kept: bool) -> dict[str, float]:
    """Train for some steps in this process."""
    with keeping_freed_memory(wanted=kept) as does:
        if does != kept:
            raise RuntimeError("this is not glibc's malloc, or the environment says how it works")
        return _steps(name)


def _steps(name: str) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arch, arguments, shape, number = MODELS[name]
    model = build(arch, arguments).train()
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    images, labels = torch.randn(4 * BATCH, *shape), torch.randint(10, (4 * BATCH,))
    taken, faults = [], []
    for step in range(number + 2):
        began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        part = slice(step % 4 * BATCH, (step % 4 + 1) * BATCH)
        functional.cross_entropy(model(images[part]), labels[part]).backward()
        sgd.step()
        sgd.zero_grad()
        taken.append(time.process_time() - began)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": 1e3 * median(taken[2:]), "page faults": median(faults[2:]), "peak MiB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--child", choices=("begins", "kept"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(steps(given.models[0], kept=given.child == "kept")))
        return
    for name in given.models:
        found: dict[str, list[dict[str, float]]] = {"begins": [], "kept": []}
        for _ in range(given.rounds):
            for kind, runs in found.items():
                command = [sys.executable, __file__, "--models", name, "--child", kind]
                told = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
                runs.append(json.loads(told.stdout))
        for kind, runs in found.items():
            figures = (f"{median(run[key] for run in runs):.1f} {key}" for key in runs[0])
            print(f"{name:14} {kind:7} {', '.join(figures)}", end="; ")
        ratios = [b["ms"] / a["ms"] for a, b in zip(*found.values(), strict=True)]
        print(f"kept / begins {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


if __name__ == "__main__":
    main()
