"""Device, number format and processes of a run, through Accelerate. Each process has one device.

Models are never wrapped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from extcon_cli.errors import UsageError, first_line
from extcon_cli.processes import ALONE, PATIENCE, Processes, Share, launched

Accelerator = Any  # accelerate.Accelerator, which ships no types that mypy can follow

DEVICES = ("cpu", "cuda", "mps", "xpu")
SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")
"""Ways of `accelerate launch` to spread one model over several devices, each a variable ACCELERATE_USE_..."""


def create_accelerator(
    device: str | None = None, mixed_precision: str = "no", *, processes: Share | None = None
) -> Accelerator:
    """An `accelerate.Accelerator` on `device` (`cpu`, `cuda`, `cuda:1`, `mps`; None: the best there is).

    Of it the loop uses `.device`, `.autocast()`, `.backward()` and `.scaler`. Several processes have a device each.

    Args:
        processes: that share the run (None: it is for one). `join` gives what they meet by.

    Raises: UsageError where the machine lacks it, or a launcher has started several where one is needed.
    """
    from accelerate import Accelerator as Accelerate
    from accelerate import InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    several = launched().number > 1
    if several and processes is None:
        raise UsageError("this is for one process: start it without `accelerate launch` or torchrun")
    wanted = _of_each(device) if several else _present(device)
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first device of the process stays for good
    group = InitProcessGroupKwargs(backend="gloo" if wanted == "cpu" else None, timeout=PATIENCE)
    handlers = [group] if several else None
    with _environment("ACCELERATE_TORCH_DEVICE", wanted if wanted == "cpu" or not several else None):
        try:
            made = Accelerate(cpu=wanted == "cpu", mixed_precision=mixed_precision, kwargs_handlers=handlers)
        except ValueError as error:
            raise UsageError(f"mixed_precision {mixed_precision!r} does not work here: {error}") from error
    if mixed_precision != "no" and not made.native_amp:  # Accelerate would say nothing and train in fp32
        raise UsageError(
            f"mixed_precision {mixed_precision!r} does not work on {made.device.type}: set it to bf16 or no"
        )
    if made.device.type == "cuda" and made.device.index is not None:
        torch.cuda.set_device(made.device)
    return made


def join(accelerator: Accelerator) -> Processes:
    """What the processes of a run meet by; all of them call this."""
    if accelerator.num_processes == 1:
        return ALONE
    signals = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(signals, torch.distributed.ProcessGroup), "this process is one of them"
    return Processes(Share(accelerator.process_index, accelerator.num_processes), signals)


def _of_each(device: str | None) -> str:
    """The kind of device that each of several processes takes one of (UsageError: that cannot be)."""
    for way in SHARDED:
        if os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() not in ("", "0", "false"):
            raise UsageError(
                f"accelerate launch with {way}: choose MULTI_GPU or MULTI_CPU in its configuration, or start extcon by "
                "torchrun; the recipe's key `shard` spreads a model over the processes"
            )
    kind = device or next((name for name in ("cuda", "xpu") if getattr(torch, name).is_available()), "cpu")
    if ":" in kind:
        raise UsageError(f"--device {kind}: each of several processes takes a device of its own: --device {kind[:4]}")
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if kind in ("cuda", "xpu"):
        there = getattr(torch, kind).device_count()
        if place >= there > 0:
            raise UsageError(f"more processes than devices: {there} here; start as many, or use --device cpu")
    return str(_present(kind))


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
