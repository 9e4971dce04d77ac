"""What a command's start costs: `python benchmarks/startup.py [--runs 3] [--resnet50]`.

User seconds of CPU of whole processes, and how many times as long as `import torch` beside each that is: seconds alone
say little on a machine that others use. `--resnet50` adds the removal of dead channels from torchvision's ResNet-50,
with a quarter of each batch norm at zero. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from torch import nn

SAMPLE = Path(__file__).parents[1] / "sample_models" / "digits_resnet.pt"
EXTCON = (sys.executable, "-m", "extcon_cli")


def user_seconds(command: Sequence[str]) -> float:
    """Of one process, which has to end well."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            out.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {out.read().decode()[-500:]}")
    return usage.ru_utime


@torch.no_grad()
def quarter_dead(path: Path) -> None:
    """Write the ResNet-50."""
    torch.manual_seed(0)
    net = torchvision.models.resnet50(weights=None)
    for norm in (child for child in net.modules() if isinstance(child, nn.BatchNorm2d)):
        dead = torch.randperm(norm.num_features)[: norm.num_features // 4]
        norm.weight[dead] = norm.bias[dead] = 0.0
    torch.save(net.state_dict(), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--resnet50", action="store_true")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled once, not by every command
    with tempfile.TemporaryDirectory() as folder:
        net, small = Path(folder, "resnet50.pt"), Path(folder, "small.safetensors")
        commands = {"--help": (*EXTCON, "--help"), "inspect": (*EXTCON, "inspect", str(SAMPLE))}
        if given.resnet50:
            quarter_dead(net)
            options = ("--already-zero", "--no-latency", "--out", str(small), "--force")
            commands["prune --already-zero"] = (*EXTCON, "prune", str(net), *options)
        user_seconds((sys.executable, "-c", "import torch"))
        for name, command in commands.items():
            user_seconds(command)  # Python compiles what it has not compiled yet
            spent, ratios = [], []
            for _ in range(given.runs):
                bare = user_seconds((sys.executable, "-c", "import torch"))
                spent.append(user_seconds(command))
                ratios.append(spent[-1] / bare)
            print(f"{name:22} {statistics.median(spent):.2f} s ({min(spent):.2f} to {max(spent):.2f})", end="")
            print(f", {statistics.median(ratios):.2f} times import torch ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
