"""Batch norms in training mode over the batches of all processes: the result is that of one process.

torch's own SyncBatchNorm does it on GPUs only. Modules are not replaced: within `global_batch_norm` every call of
`torch.nn.functional.batch_norm`, by a module or by the user's code, takes its mean and variance from all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from extcon_cli.processes import Processes


def global_batch_norm(processes: Processes) -> AbstractContextManager[object]:
    """Within: batch norms are those of all processes together. Of one process, nothing changes."""
    return _Intercepting(processes) if processes.several else nullcontext()


class _Intercepting(TorchFunctionMode):
    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.normalise = partial(_batch_norm, processes)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm:
            return self.normalise(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    processes: Processes,
    x: Tensor,  # (N, C, ...)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    y, mean, variance, count = _Normalise.apply(x, eps, processes)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
        if running_var is not None:
            running_var.lerp_((variance * count / (count - 1)).to(running_var), momentum)
    if weight is not None:
        y = y * _along(weight, y)
    return y if bias is None else y + _along(bias, y)


class _Normalise(torch.autograd.Function):
    """x -> (x - mean) / sqrt(variance + eps), with both over the samples and positions of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, processes: Processes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        over = [dim for dim in range(x.dim()) if dim != 1]
        count = wide.new_tensor([x.numel() / max(1, x.shape[1])])
        total = wide.sum(over)
        processes.add_up([total, count])
        mean = total / count
        centred = wide - _along(mean, wide)
        variance = centred.square().sum(over)
        processes.add_up([variance])
        variance = variance / count
        scale = (variance + eps).rsqrt()
        y = centred * _along(scale, wide)
        ctx.save_for_backward(y, scale, count)
        ctx.processes, ctx.over = processes, over
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: object) -> tuple[Tensor, None, None]:
        y, scale, count = ctx.saved_tensors
        wide = gradient.to(y.dtype)
        sums = [wide.sum(ctx.over), (wide * y).sum(ctx.over)]
        ctx.processes.add_up(sums)
        mean, along = (_along(total / count, wide) for total in sums)
        found = (wide - mean - y * along) * _along(scale, wide)
        return found.to(gradient.dtype), None, None


def _along(vector: Tensor, like: Tensor) -> Tensor:
    """(C,) as (1, C, 1, ...)."""
    return vector.reshape(1, -1, *(1,) * (like.dim() - 2))
