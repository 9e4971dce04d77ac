"""TorchScript, by tracing, run by torch (or libtorch in C++). PyTorch no longer develops it: prefer pt2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extcon_cli.export.program import Program

NEEDS: tuple[str, ...] = ()
INSTALL = ""
RUNTIME = "torch"


def write(program: Program, path: Path) -> Program:
    """Trace and write; the program with as much free as the trace has left so."""
    import torch

    from extcon_cli.export.program import narrowed

    jit: Any = torch.jit
    example: Any = program.example
    given = {"example_kwarg_inputs": dict(example)} if isinstance(example, Mapping) else {"example_inputs": example}
    with torch.no_grad():
        traced = jit.trace(program.module, **given, check_trace=False)
    found = narrowed(program, traced)
    jit.save(traced, str(path))
    return found


def load(path: str, threads: int) -> Callable[[list[Any]], list[Any]]:
    """A function from input arrays to output arrays."""
    import torch

    torch.set_num_threads(threads)
    jit: Any = torch.jit
    module = jit.load(path)

    def run(arrays: list[Any]) -> list[Any]:
        with torch.no_grad():
            out = module(*(torch.from_numpy(array) for array in arrays))
        return [tensor.numpy() for tensor in (out if isinstance(out, tuple | list) else (out,))]

    return run


def costs(path: str, arrays: list[Any]) -> tuple[int | None, int | None]:
    """Parameters, and multiply-accumulates for these inputs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    jit: Any = torch.jit
    params = sum(tensor.numel() for tensor in jit.load(path).parameters())
    run = load(path, torch.get_num_threads())
    with FlopCounterMode(display=False) as counter:
        run(arrays)
    return params, counter.get_total_flops() // 2
