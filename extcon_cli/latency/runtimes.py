"""A module as a call in the runtime that it will be deployed on. It measures nothing and compares no outputs.

What onnxruntime and OpenVINO run is the file that `extcon export` writes, but with the sizes fixed.
"""

from __future__ import annotations

import copy
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from extcon_cli.channels.compare import Inputs, at_batch, call
from extcon_cli.errors import TraceError, first_line
from extcon_cli.export.formats import FORMATS, RUNTIMES, check_runtime, named
from extcon_cli.export.program import Program, fixed
from extcon_cli.latency.clock import Call, Clock


@dataclass(frozen=True)
class Setting:
    """What latency depends on beside the module."""

    runtime: str
    batch_size: int
    threads: int
    """Of the CPU."""
    device: str = "cpu"
    """That torch computes on; the other runtimes compute on the CPU."""

    @property
    def clock(self) -> Clock:
        """What tells the time: wall time, or processor time where one thread of the CPU does all the work.

        The two are the same then, but for what other processes take of the core.
        """
        return time.process_time if self.threads == 1 and self.device == "cpu" else time.perf_counter

    @property
    def software(self) -> str:
        """The runtime with its version: "onnxruntime 1.20.0"."""
        package = self.runtime.partition(".")[0]
        return f"{self.runtime} {version(package).partition('+')[0]}"

    @property
    def hardware(self) -> str:
        """The name of what computes."""
        return torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else _processor()


class _FileFormat(Protocol):
    """What is asked of a format's module in `export/`."""

    def write(self, program: Program, path: Path) -> Program: ...

    def load(self, path: str, threads: int) -> Callable[[list[Any]], list[Any]]: ...


@contextmanager
def running(module: nn.Module, example: Inputs, setting: Setting) -> Iterator[Call]:
    """A call that runs the module on a batch and returns when that is over.

    Args:
        module: is neither changed nor moved.
        example: the arguments of a forward pass; its first sample is repeated.

    Raises:
        TraceError: the module cannot be exported for this runtime, or compiled.
        UsageError: the runtime's packages are not installed.
    """
    check_runtime(setting.runtime)
    before = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        copied = copy.deepcopy(module).to(setting.device).eval().requires_grad_(False)
        inputs = at_batch(copied, example, setting.batch_size)
        if (format := RUNTIMES[setting.runtime]) is not None:
            with tempfile.TemporaryDirectory() as folder:
                yield _loaded(copied, inputs, setting, Path(folder, f"model{FORMATS[format][1]}"))
        elif setting.runtime == "torch.compile":
            yield _compiled(copied, inputs, setting.device)
        else:
            yield _synchronous(copied, inputs, setting.device)
    finally:
        torch.set_num_threads(before)


def _synchronous(module: nn.Module, inputs: Inputs, device: str) -> Call:
    def run() -> None:
        with torch.inference_mode():
            call(module, inputs)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    return run


def _compiled(module: nn.Module, inputs: Inputs, device: str) -> Call:
    """Compiled from an exported graph: a class that is compiled often falls back to plain torch without a word."""
    compiled = cast(nn.Module, torch.compile(fixed(module, inputs).graph.module()))
    run = _synchronous(compiled, inputs, device)
    try:
        run()
    except Exception as error:  # whatever the compiler makes of the model, or of a machine without a C++ compiler
        raise TraceError(f"the model cannot be compiled: {first_line(error)}") from error
    return run


def _loaded(module: nn.Module, inputs: Inputs, setting: Setting, path: Path) -> Call:
    """The exported file in its runtime."""
    format = cast(_FileFormat, named(RUNTIMES[setting.runtime] or setting.runtime))
    program = fixed(module, inputs)
    try:
        format.write(program, path)
        run = format.load(str(path), setting.threads)
    except Exception as error:  # an exporter's own: any kind
        raise TraceError(f"the model cannot run in {setting.runtime}: {first_line(error)}") from error
    arrays = [tensor.numpy() for tensor in program.tensors]
    return lambda: run(arrays)


@cache
def _processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
