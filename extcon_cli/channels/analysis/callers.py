"""Who calls an operator while a model runs: the modules whose forward passes are running, and the line of the model.

Both are said as torch.export says them. Knows nothing of what is recorded.
"""

from __future__ import annotations

import linecache
import sys
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from extcon_cli.channels.modules import named_modules

TORCH = str(Path(torch.__file__).parent) + "/"
LAYERS = f"{TORCH}nn/"


class Callers(ExitStack):
    """Within the context: which modules' forward passes are running."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.paths = {id(child): path for path, child in reversed(named_modules(module))}
        self.calls: list[tuple[str, type]] = []

    def __enter__(self) -> Callers:
        super().__enter__()
        self.callback(nn.modules.module.register_module_forward_pre_hook(self._enter).remove)
        self.callback(nn.modules.module.register_module_forward_hook(self._leave, always_call=True).remove)
        return self

    @property
    def stack(self) -> dict[str, tuple[str, type]]:
        """Path and class of each module that is running, the outermost first."""
        return {f"{depth}": call for depth, call in enumerate(self.calls)}

    def _enter(self, child: nn.Module, args: object) -> None:
        self.calls.append((self.paths.get(id(child), ""), type(child)))

    def _leave(self, child: nn.Module, args: object, output: object) -> None:
        self.calls.pop()


def line(below: str) -> str:
    """The line of the innermost `forward` outside torch.nn, else the innermost line, as a traceback says it.

    Args:
        below: the file whose frames the search begins and ends at: the recorder's.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == below:
        frame = frame.f_back
    found: list[FrameType] = []
    while frame is not None and frame.f_code.co_filename != below:
        file = frame.f_code.co_filename
        if file.startswith(LAYERS) or not file.startswith(TORCH):
            found.append(frame)
            if frame.f_code.co_name == "forward" and not file.startswith(LAYERS):
                break
        frame = frame.f_back
    if not found:
        return ""
    forwards = [frame for frame in found if frame.f_code.co_name == "forward"] or found
    outside = [frame for frame in forwards if not frame.f_code.co_filename.startswith(LAYERS)] or forwards
    return _said(outside[0].f_code.co_filename, outside[0].f_lineno)


@lru_cache(1000)
def _said(file: str, number: int) -> str:
    return f'  File "{file}", line {number}, in forward\n    {linecache.getline(file, number).strip()}'
