"""An exported file as a module: what runs on it are the same measurements as on any other. It trains nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.errors import GateError
from extcon_cli.export.elsewhere import Elsewhere
from extcon_cli.export.program import Program


class ExportedModule(nn.Module):
    """Gives what the file gives in its own runtime, in the containers that the user's module would use.

    Args:
        program: what was exported.
        process: where the file runs.
    """

    def __init__(self, program: Program, process: Elsewhere) -> None:
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
