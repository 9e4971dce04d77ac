"""An exported file as a module: what runs on it are the same measurements as on any other. It trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from extcon_cli.errors import GateError
from extcon_cli.export.elsewhere import Elsewhere


class Form(Protocol):
    """What a file takes and gives: a `Program` knows all of it."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def restored(self, tensors: Sequence[Tensor]) -> Any: ...


@dataclass(frozen=True)
class Unknown:
    """The form of a file that somebody else may have written: tensors in, one tensor or several out."""

    names: tuple[str, ...] = ()
    """Of the inputs, in the file's order, where they are given by name."""

    def restored(self, tensors: Sequence[Tensor]) -> Any:
        """The tensor, or a tuple of them."""
        return tensors[0] if len(tensors) == 1 else tuple(tensors)


class ExportedModule(nn.Module):
    """Gives what the file gives in its own runtime, in the containers that the user's module would use.

    Args:
        program: what was exported, or its form.
        process: where the file runs.
    """

    def __init__(self, program: Form, process: Elsewhere) -> None:
        super().__init__()
        self.program, self.process = program, process

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """GateError: the runtime refuses the inputs."""
        tensors = [*args, *(kwargs[name] for name in self.program.names if name in kwargs)]
        try:
            found = self.process.run([tensor.detach().cpu().numpy() for tensor in tensors])
        except RuntimeError as error:
            raise GateError(f"the exported file does not run: {error}") from error
        return self.program.restored([torch.from_numpy(array) for array in found])
