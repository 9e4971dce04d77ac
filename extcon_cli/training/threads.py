"""How many CPU threads torch computes with: one for small models, else what is fastest here and now.

Threads that wait for each other cost more than they give where a model is small or other processes run: the slowest
core decides, and a thread that spins takes the time that another one needs. What the user has set wins, by
OMP_NUM_THREADS or torch.set_num_threads. It knows no run and keeps nothing: the number goes with the run's state,
because float32's last bits depend on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.tasks.base import raw_outputs, samples_in

SMALL = 10**9
"""Multiplications in a forward pass of a batch below which a second thread is not worth its waiting."""
WORTH = 0.9
"""More threads have to take at most this share of the time of fewer."""
ROUNDS, BUDGET = 3, 2.0
"""Times that each number is measured, and seconds after which no further round begins."""
SLOWER = 1.8
"""How many times as long as at best steps have to take before fewer threads are tried."""
WINDOW, WINDOW_SECONDS = 5, 1.0
"""Steps, and seconds at the least, whose median counts as the time of a step."""

DEFAULT = torch.get_num_threads()
"""What torch begins with; any other number later on was set by a program."""


def given() -> int | None:
    """The number that the user has set, for all of the process. None: none."""
    now = torch.get_num_threads()
    return now if now != DEFAULT or os.environ.get("OMP_NUM_THREADS") else None


def available() -> int:
    """Cores that this process may use, as far as affinity and a container's quota tell."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        share = -(-int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or no limit
        share = DEFAULT
    return max(1, min(DEFAULT, share))


@torch.no_grad()
def multiplications(module: nn.Module, inputs: Any, batch: int) -> float:
    """Of the linear maps in a forward pass of `batch` samples, measured on these inputs, in the mode that it is in."""
    counted = 0

    def count(layer: nn.Module, _: object, output: object) -> None:
        nonlocal counted
        weight = getattr(layer, "weight", None)
        if isinstance(output, Tensor) and isinstance(weight, Tensor) and weight.dim() > 1:
            counted += output.numel() * weight[0].numel()

    handles = [layer.register_forward_hook(count) for layer in module.modules()]
    try:
        raw_outputs(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return counted * batch / samples_in(inputs)


def fastest(step: Callable[[], object], most: int) -> int:
    """The number of threads up to `most` with which a step is fastest; fewer, where more gain little.

    Halves the number until that is slower. Leaves torch with the number that it had.
    """
    before = torch.get_num_threads()
    taken: dict[int, float] = {}
    number = most
    try:
        while number >= 1:
            taken[number] = _seconds(step, number)
            if taken[number] > 1.5 * min(taken.values()):
                break
            number //= 2
    finally:
        torch.set_num_threads(before)
    best = min(taken.values())
    return min(number for number, seconds in taken.items() if seconds * WORTH <= best)


def _seconds(step: Callable[[], object], number: int) -> float:
    torch.set_num_threads(number)
    step()  # starts the threads
    began, taken = time.perf_counter(), list[float]()
    while len(taken) < ROUNDS and (not taken or time.perf_counter() - began < BUDGET):
        at = time.perf_counter()
        step()
        taken.append(time.perf_counter() - at)
    return median(taken)


@dataclass
class Threads:
    """The number of threads of a run: as it was chosen, and fewer once its steps take much longer than they did."""

    number: int
    reason: str
    """Why this number, for the log."""
    fixed: bool = True
    """It does not change while the run goes on."""
    _window: list[float] = field(default_factory=list)
    _best: float | None = None
    _tried: tuple[int, float] | None = None  # the number before this trial, and the seconds of a step with it
    _rest: int = 1  # windows until the next trial
    _patience: int = 1

    def apply(self) -> None:
        """Compute with this number from now on."""
        torch.set_num_threads(self.number)

    def watch(self, seconds: float) -> str | None:
        """Take note of a step's time. Where the number has changed: what to say. Then keep the state of the run."""
        if self.fixed:
            return None
        self._window.append(seconds)
        if len(self._window) < WINDOW or sum(self._window) < WINDOW_SECONDS:
            return None
        now = median(self._window)
        self._window = []
        if self._tried is not None:
            return self._end(*self._tried, now)
        self._best = now if self._best is None else min(now, self._best)
        self._rest -= 1
        if self.number == 1 or self._rest > 0 or now <= SLOWER * self._best:
            return None
        self._tried = self.number, now
        self._set(self.number // 2)
        return f"steps take {now / self._best:.1f} times as long as at best: trying {_threads(self.number)}"

    def new_phase(self) -> None:
        """What comes now takes another time a step."""
        self._window, self._best, self._tried = [], None, None

    def _end(self, number: int, seconds: float, now: float) -> str:
        """A trial is over: this number, or the one before."""
        self._tried, self._patience = None, 2 * self._patience
        self._rest = self._patience
        if now <= WORTH * seconds:
            self.fixed = self.number == 1
            return f"going on with {_threads(self.number)}: {seconds / now:.1f} times as fast"
        self._set(number)
        return f"back to {_threads(self.number)}"

    def _set(self, number: int) -> None:
        self.number = number
        self.apply()

    def __str__(self) -> str:
        return f"{_threads(self.number)}: {self.reason}"


def choose(module: nn.Module, inputs: Any, batch: int, step: Callable[[], object] | None) -> Threads:
    """The number of threads for training a module on the CPU, where the user has set none.

    Args:
        inputs: of a few samples, as a batch has them; the module is run on them once.
        batch: samples of a training batch.
        step: as much work as a training step, without any effect. None: nothing is measured, all cores are taken.
    """
    most = available()
    if most == 1:
        return Threads(1, "one core is free to use")
    if multiplications(module, inputs, batch) < SMALL:
        return Threads(1, "the model is small")
    if step is None:
        return Threads(most, "every core that is free to use, in every run")
    return Threads(fastest(step, most), f"the fastest of up to {most} in a short measurement", fixed=False)


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number > 1)}"
