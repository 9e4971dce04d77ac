"""Which switches training steps are computed with, where the recipe leaves it to a measurement.

Candidates take turns on a copy of the model, so that what else the machine does meets all of them, and on a CPU only
the time that this process itself computes counts. A switch has to gain clearly: where in doubt, steps stay plain.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import torch

from extcon_cli.errors import UsageError, first_line
from extcon_cli.events import Emit, Noted
from extcon_cli.latency.clock import take_turns
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.recipe.schema import SpeedSpec
from extcon_cli.tasks.base import samples_in
from extcon_cli.training.determinism import wanted
from extcon_cli.training.device import Accelerator
from extcon_cli.training.run_directory import RunDirectory
from extcon_cli.training.speed import Precision, Speed

SECONDS = 2.0
"""That are measured, of what counts."""
STEP = 0.25
"""Seconds of a step, at most: of a larger model it is taken on fewer samples."""
LEAST = 8
"""Samples in such a step, at least."""
WORTH = 0.9
"""A switch has to take at most this share of the time of a plain step."""


def needs_trial(spec: SpeedSpec) -> bool:
    """Does the recipe leave a switch open?"""
    return spec.mixed_precision == "auto" or spec.channels_last == "auto"


def settled(spec: SpeedSpec) -> Speed:
    """The switches as the recipe sets them, with what it leaves open off."""
    precision: Precision = "no" if spec.mixed_precision == "auto" else spec.mixed_precision
    return Speed(precision, spec.channels_last is True, spec.compile)


def choose_speed(
    prepared: Prepared, spec: SpeedSpec, accelerator: Accelerator, directory: RunDirectory, emit: Emit
) -> Speed:
    """The switches of a run: as the recipe sets them, as the run that it goes on with had them, or as measured."""
    if spec.compile and accelerator.num_processes > 1:
        raise UsageError("`compile` works in one process: leave it out, or start without a launcher")
    speed = settled(spec)
    if needs_trial(spec):
        if wanted():
            emit(Noted("deterministic: steps are computed plainly, without a measurement"))
        elif directory.kept_speed is not None:
            speed = directory.kept_speed
            emit(Noted(f"steps in {_named(speed)}: as the run began"))
        else:
            speed, reason = fastest(prepared, spec, accelerator)
            emit(Noted(reason))
    directory.begin_speed(speed)
    return speed


def candidates(spec: SpeedSpec, device: torch.device) -> list[Speed]:
    """All that the recipe allows, the plain one first; compiled is none of them."""
    plain = settled(spec)
    formats = [plain.precision]
    if spec.mixed_precision == "auto" and _bf16(device):
        formats.append("bf16")
    layouts = [plain.channels_last, *([True] if spec.channels_last == "auto" else [])]
    return [Speed(precision, layout) for precision, layout in product(formats, layouts)]


def fastest(
    prepared: Prepared, spec: SpeedSpec, accelerator: Accelerator, clock: Callable[[], float] | None = None
) -> tuple[Speed, str]:
    """The switches that gain most, and why; plain ones where none gains clearly.

    Args:
        clock: tells seconds. None: of this process on a CPU, else those of the world outside.
    """
    device = accelerator.device
    clock = clock or (time.process_time if device.type == "cpu" else time.perf_counter)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        step = _Step(prepared, accelerator, clock)
        plain, *others = candidates(spec, device)
        step(plain)  # what is wrong here is wrong in training
        runnable, failures = [plain], []
        for speed in others:
            try:
                works, reason = step(speed), "the loss is not finite"
            except RuntimeError as error:
                works, reason = False, first_line(error)
            if works:
                runnable.append(speed)
            else:
                failures.append(f"{_named(speed)} does not work with this model ({reason})")
        times = take_turns([partial(step, speed) for speed in runnable], seconds=SECONDS, clock=clock)
    ratios = [times.ratio(number, 0) for number in range(len(runnable))]
    clear = [number for number, ratio in enumerate(ratios) if ratio.median <= WORTH and ratio.high < 1]
    best = min(clear, key=lambda number: ratios[number].median, default=0)
    told = [f"{_named(speed)} {1 / ratio.median:.2f}" for speed, ratio in zip(runnable[1:], ratios[1:], strict=True)]
    measured = f"speed against {_named(runnable[0])}: {', '.join(told)}" if told else "nothing else can run"
    chosen = replace(runnable[best], compile=spec.compile)
    return chosen, "; ".join([f"steps in {_named(chosen)} ({measured})", *failures])


class _Step:
    """A training step without an optimizer, on a copy of the model; of as many samples as `STEP` allows."""

    def __init__(self, prepared: Prepared, accelerator: Accelerator, clock: Callable[[], float]) -> None:
        self.task, self.accelerator = prepared.task, accelerator
        self.trial = copy.deepcopy(prepared.module).to(accelerator.device).train()
        size = prepared.data.spec.batch_size

        def batch(samples: int) -> tuple[object, object]:
            loader = prepared.data.train_loader(device=accelerator.device, seed=0, batch_size=samples)
            return loader.batch(0)

        self.batch = batch(min(LEAST, size))
        self(Speed())
        began = clock()
        self(Speed())
        wanted = int(STEP / max(clock() - began, 1e-9) * samples_in(self.batch[0]))
        if wanted > LEAST:
            self.batch = batch(min(wanted, size))

    def __call__(self, speed: Speed) -> bool:
        """Is its loss finite?"""
        inputs, targets = self.batch
        with speed.autocast(self.accelerator):
            outputs = self.task.forward(self.trial, (speed.inputs(inputs), targets))
        loss = self.task.loss(outputs, targets)
        torch.autograd.backward(loss)
        self.trial.zero_grad()
        return bool(torch.isfinite(loss))  # a GPU has done its work then


def _bf16(device: torch.device) -> bool:
    """Does this device compute in bf16?"""
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())


def _named(speed: Speed) -> str:
    parts = [
        speed.precision if speed.precision != "no" else "fp32",
        *(["channels_last"] if speed.channels_last else []),
    ]
    return " and ".join(parts)
