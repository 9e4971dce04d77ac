"""An exported file in its own runtime: running it there, timing it, and the inputs that both take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from extcon_cli.channels.compare import Inputs, batch_size, call
from extcon_cli.errors import GateError
from extcon_cli.export.elsewhere import Elsewhere, clocked
from extcon_cli.export.formats import Format
from extcon_cli.export.program import Program, at_batch


@contextmanager
def running(kind: Format, path: Path) -> Iterator[Elsewhere]:
    """The file in its own runtime, in a process without extcon. GateError: it cannot be loaded there."""
    try:
        with Elsewhere(str(kind.__file__), str(path), torch.get_num_threads()) as process:
            yield process
    except RuntimeError as error:
        raise GateError(f"the exported file does not run: {error}") from error


def runtime(package: str) -> str:
    """A runtime as results name it: "onnxruntime 1.20.0"."""
    return f"{package} {version(package).partition('+')[0]}"


def timed(found: Program, sizes: Sequence[int]) -> Iterator[tuple[int, Inputs]]:
    """Inputs at these batch sizes; at the only one that there is, where it is fixed."""
    if any("batch" in names.values() for names in found.free):
        yield from ((size, at_batch(found.example, size)) for size in sizes)
    else:
        yield batch_size(found.example), found.example


def clock(module: nn.Module, inputs: Inputs) -> float:
    """Median seconds of one pass of a module of torch, measured as those of a file are."""
    with torch.no_grad():
        return clocked(lambda: call(module, inputs))


def arrays(inputs: Inputs) -> list[np.ndarray[Any, Any]]:
    """Inputs as runtimes take them."""
    return [x.numpy() for x in (inputs.values() if isinstance(inputs, Mapping) else inputs)]
