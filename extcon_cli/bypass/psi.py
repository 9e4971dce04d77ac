"""psi(x) = D x + sigma(x): the extended activation (paper, eq. 7), as a module in the place of sigma."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

FEW = 32
"""Places of a map under which D is spread out over it: torch broadcasts slowly along short runs of memory."""


class Psi(nn.Module):
    """psi(x) = D x + sigma(x), one entry of D a channel."""

    def __init__(self, activation: nn.Module, width: int, axis: int, like: Tensor) -> None:
        super().__init__()
        self.activation, self.axis = copy.deepcopy(activation), axis
        if "inplace" in vars(self.activation):
            vars(self.activation)["inplace"] = False
        self.writes = isinstance(activation, Applied) and activation.writes  # to what it is given
        self.rectifies = type(activation) is nn.ReLU or getattr(activation, "name", "") in ("relu", "relu_")
        self.delta = nn.Parameter(torch.zeros(width, dtype=like.dtype, device=like.device))  # (width,) diagonal of D

    def forward(self, x: Tensor) -> Tensor:
        delta = self.delta.reshape([-1 if dim == self.axis else 1 for dim in range(x.dim())])
        if self.rectifies:
            if self.axis == 1 and x.dim() > 2 and x.shape[2:].numel() < FEW:
                delta = delta.expand(1, *x.shape[1:]).contiguous()
            y: Tensor = Rectified.apply(x, delta.to(x.dtype))
            return y
        y = self.activation(x.clone() if self.writes else x)
        return torch.addcmul(y, delta.to(y.dtype), x.to(y.dtype))


class Rectified(torch.autograd.Function):
    """D x + max(x, 0) for a D that is broadcast to x, and its gradients in as few passes over memory as there can be.

    By torch's own operators a step of ResNet-18 took 12 % longer, most of it for pages of memory asked for anew.
    """

    @staticmethod
    def forward(x: Tensor, delta: Tensor) -> Tensor:
        return torch.relu(x).addcmul_(delta, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x, delta), (y,) = ctx.saved_tensors, gradients
        along_x = torch.ops.aten.threshold_backward(y, x, 0).addcmul_(delta, y)
        return along_x, _summed_product(y, x, delta.shape)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, int | None], *held: Tensor) -> tuple[Tensor, int]:
        batched = (t[None] if dim is None else t.movedim(dim, 0) for t, dim in zip(held, dims, strict=True))
        return Rectified.apply(*batched), 0


def _summed_product(y: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """y x, summed to the shape."""
    maps = x.dim() == 4 and shape == (1, x.shape[1], 1, 1)
    if not (maps and x.device.type == "cpu" and x.dtype is y.dtype is torch.float32):
        return (y * x).sum_to_size(shape)
    # what a batch norm of mean 0 and variance 1 gives for gamma, and without the product in memory
    zero, one = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    found = torch.ops.aten.native_batch_norm_backward(
        y, x, one, zero, one, None, None, False, 0.0, [False, True, False]
    )
    return found[1].reshape(shape)


class Applied(nn.Module):
    """A function or method with its fixed arguments, as a module of one input."""

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, args, {**kwargs}
        if "inplace" in kwargs:
            self.kwargs["inplace"] = False
        self.name = function if isinstance(function, str) else getattr(function, "__name__", "_")
        self.writes = bool(args) or self.name.endswith("_")

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.function, str):
            return getattr(x, self.function)(*self.args, **self.kwargs)
        return self.function(x, *self.args, **self.kwargs)
