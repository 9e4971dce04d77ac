"""Time beside busy processes, by number of threads and by how they wait: `python benchmarks/threads.py [--busy 2]`.

For each setting, in turn: README's first command, and a training step (forward and backward, batch 128) of ResNet-18
on images of 32 pixels; alone, and beside processes that do nothing but keep a core busy. `chosen` is extcon as it
is; the others set --threads, and OMP_WAIT_POLICY (active: waiting threads spin, which is OpenMP's own default). A
command that is not done after `--limit` seconds is ended.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "chosen": ((), None),
    "1 thread": (("--threads", "1"), None),
    "2 threads, passive": (("--threads", "2"), "PASSIVE"),
    "2 threads, active": (("--threads", "2"), "ACTIVE"),
}
STEP = """
import statistics, sys, time, torch
from extcon_cli.checkpoint.architectures import build
from extcon_cli.training import threads
net, x = build("torchvision:resnet18", {"num_classes": 10}), torch.randn(128, 3, 32, 32)
def step():
    net(x).square().mean().backward()
if threads.given() is None:
    threads.choose(net, x[:2], len(x), step).apply()
step()
taken, began = [], time.perf_counter()
while time.perf_counter() - began < 6:
    at = time.perf_counter()
    step()
    taken.append(time.perf_counter() - at)
print(f"{statistics.median(taken) * 1e3:.0f} ms, {torch.get_num_threads()}")
"""


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that each keep a core busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def environment(threads: tuple[str, ...], policy: str | None) -> dict[str, str]:
    """The environment of a setting, without what this one's own environment sets."""
    found = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    found["PYTHONPATH"] = str(ROOT)
    if policy is not None:
        found["OMP_WAIT_POLICY"] = policy
    return found


def command(threads: tuple[str, ...], policy: str | None, limit: float) -> str:
    """Seconds of README's first command."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("digits_resnet.pt", "digits_resnet.yaml"):
            shutil.copy(ROOT / "sample_models" / name, folder)
        line = [sys.executable, "-m", "extcon_cli", "prune", "digits_resnet.pt", "--ratio", "0.5", "--quiet", *threads]
        began = time.perf_counter()
        try:
            subprocess.run(
                line, cwd=folder, env=environment(threads, policy), stdout=subprocess.DEVNULL, timeout=limit, check=True
            )
        except subprocess.TimeoutExpired:
            return f"over {limit:.0f} s"
        return f"{time.perf_counter() - began:.1f} s"


def step(threads: tuple[str, ...], policy: str | None) -> str:
    """Median time of a training step."""
    values = environment(threads, policy)
    values.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as extcon's command line sets it
    if threads:
        values["OMP_NUM_THREADS"] = threads[1]
    return subprocess.run([sys.executable, "-c", STEP], env=values, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=2, help="processes beside it")
    parser.add_argument("--limit", type=float, default=120, help="seconds")
    parser.add_argument("--runs", type=int, default=3, help="of each cell")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--skip-command", action="store_true")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}\n")
    print("| setting | beside | README's first command | a step of ResNet-18 |")
    print("|---|---|---|---|")
    for beside in (0, options.busy):
        for name in options.settings:
            setting = SETTINGS[name]
            with busy(beside):
                whole = [] if options.skip_command else [command(*setting, options.limit) for _ in range(options.runs)]
                steps = [step(*setting).strip() for _ in range(options.runs)]
            print(f"| {name} | {beside} busy loops | {', '.join(whole)} | {', '.join(steps)} |", flush=True)


if __name__ == "__main__":
    main()
