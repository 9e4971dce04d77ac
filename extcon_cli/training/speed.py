"""How a training step is computed: number format, layout of images, compiled or not. It measures and chooses nothing.

Parameters, optimizers and saved states are the same with every switch: autocast converts what it reads, the layout is
that of the inputs alone (convolutions hand it on), and a compiled module shares all tensors with the module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from extcon_cli.errors import UsageError, first_line
from extcon_cli.training.device import Accelerator

Precision = Literal["no", "fp16", "bf16"]
BACKEND = "inductor"
"""Of torch.compile."""


@dataclass(frozen=True)
class Speed:
    """The switches of a run's training steps."""

    precision: Precision = "no"
    """Format of the forward pass. `no`: that of the parameters."""
    channels_last: bool = False
    compile: bool = False

    def autocast(self, accelerator: Accelerator) -> AbstractContextManager[object]:
        """Within, forward passes are in this format; the accelerator was made for the recipe's own, or for none."""
        if self.precision == "bf16":
            return torch.autocast(accelerator.device.type, torch.bfloat16)
        context: AbstractContextManager[object] = accelerator.autocast()
        return context

    def inputs(self, tree: Any) -> Any:
        """The inputs of a batch in this layout."""
        if not self.channels_last:
            return tree
        return _last(tree) if isinstance(tree, Tensor) else tree_map(_last, tree)

    def model(self, module: nn.Module) -> nn.Module:
        """What computes the forward pass of a module, over the same parameters."""
        if not self.compile:
            return module
        compiled: object = torch.compile(module, backend=BACKEND)
        return cast(nn.Module, compiled)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """UsageError in the place of what says that the model cannot be computed so."""
        try:
            yield
        except Exception as error:
            reason = self._reason(error)
            if reason is None:
                raise
            cause = getattr(error, "inner_exception", error)  # a compiler's, in the backend's
            raise UsageError(f"{reason}: {first_line(cause)}") from error

    def _reason(self, error: Exception) -> str | None:
        if self.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            return "torch.compile does not work with this model here, leave `compile` out"
        if self.channels_last and isinstance(error, RuntimeError) and "view size is not compatible" in str(error):
            return "the model reshapes its maps in a way that needs `channels_last: false`"
        return None


PLAIN = Speed()
"""No switch is set."""


def _last(leaf: Any) -> Any:
    """Images (N, C, H, W) and volumes (N, C, D, H, W) with their channels last; all else as it is."""
    if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() in (4, 5):
        return leaf.contiguous(memory_format=torch.channels_last if leaf.dim() == 4 else torch.channels_last_3d)
    return leaf
