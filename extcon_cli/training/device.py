"""Device and number format of a run, through Accelerate. One process, one device; models are never wrapped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from extcon_cli.errors import UsageError, first_line

Accelerator = Any  # accelerate.Accelerator, which ships no types that mypy can follow

DEVICES = ("cpu", "cuda", "mps", "xpu")


def create_accelerator(device: str | None = None, mixed_precision: str = "no") -> Accelerator:
    """An `accelerate.Accelerator` on `device` (`cpu`, `cuda`, `cuda:1`, `mps`; None: the best there is).

    Of it the loop uses `.device`, `.autocast()`, `.backward()` and `.scaler`. UsageError where the machine lacks it.
    """
    from accelerate import Accelerator as Accelerate
    from accelerate.state import AcceleratorState

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("extcon runs in one process on one device: start it without `accelerate launch` or torchrun")
    wanted = _present(device)
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first device of the process stays for good
    with _environment("ACCELERATE_TORCH_DEVICE", wanted):
        try:
            made = Accelerate(cpu=wanted == "cpu", mixed_precision=mixed_precision)
        except ValueError as error:
            raise UsageError(f"mixed_precision {mixed_precision!r} does not work here: {error}") from error
    if mixed_precision != "no" and not made.native_amp:  # Accelerate would say nothing and train in fp32
        raise UsageError(
            f"mixed_precision {mixed_precision!r} does not work on {made.device.type}: set it to bf16 or no"
        )
    if made.device.type == "cuda" and made.device.index is not None:
        torch.cuda.set_device(made.device)
    return made


def _present(device: str | None) -> str | None:
    if device is None:
        return None
    try:
        wanted = torch.device(device)
        if wanted.type not in DEVICES:
            raise UsageError(f"device {device!r}: extcon computes on {', '.join(DEVICES)}")
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device {device!r} cannot be used here: {first_line(error)} (try --device cpu)") from error
    return str(wanted)


@contextmanager
def _environment(key: str, value: str | None) -> Iterator[None]:
    before = os.environ.get(key)
    if value is not None:
        os.environ[key] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = before
