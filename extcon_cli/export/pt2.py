"""PyTorch's own `torch.export` archive, run by torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extcon_cli.export.program import Program

NEEDS: tuple[str, ...] = ()
INSTALL = ""
RUNTIME = "torch"


def write(program: Program, path: Path) -> Program:
    """Write the graph; the program as it was written."""
    import torch

    with path.open("wb") as file:
        torch.export.save(program.graph, file)
    return program


def load(path: str, threads: int) -> Callable[[list[Any]], list[Any]]:
    """A function from input arrays to output arrays."""
    import torch

    torch.set_num_threads(threads)
    graph = torch.export.load(path)
    spec, module = graph.call_spec.in_spec, graph.module()
    keys = list(spec.child(1).context) if spec is not None and spec.child(1).num_leaves else None

    def run(arrays: list[Any]) -> list[Any]:
        tensors = [torch.from_numpy(array) for array in arrays]
        with torch.no_grad():
            out = module(**dict(zip(keys, tensors, strict=True))) if keys else module(*tensors)
        return [tensor.numpy() for tensor in (out if isinstance(out, tuple | list) else (out,))]

    return run


def costs(path: str, arrays: list[Any]) -> tuple[int | None, int | None]:
    """Parameters, and multiply-accumulates for these inputs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    params = sum(tensor.numel() for tensor in torch.export.load(path).parameters())
    run = load(path, torch.get_num_threads())
    with FlopCounterMode(display=False) as counter:
        run(arrays)
    return params, counter.get_total_flops() // 2
