"""What the most common operators give on meta tensors: shapes worked out here where torch does it slowly.

torch's own Python code for them takes most of a recording, and imports torch._dynamo and sympy, which take longer than
torch itself. What does not fit, or lies in memory in an order of its own, is left to torch, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

SAME = {
    aten.batch_norm.default, aten.layer_norm.default, aten.relu.default, aten.gelu.default, aten.silu.default,
    aten.sigmoid.default, aten.tanh.default, aten.hardswish.default, aten.hardsigmoid.default, aten.hardtanh.default,
    aten.leaky_relu.default, aten.elu.default, aten.mish.default,
}  # fmt: skip
"""Operators whose result has the shape and the type of their first argument, where that holds floating numbers."""
IN_PLACE = {
    aten.relu_.default, aten.silu_.default, aten.hardswish_.default, aten.hardsigmoid_.default, aten.hardtanh_.default,
    aten.leaky_relu_.default, aten.elu_.default, aten.mish_.default,
}  # fmt: skip
"""Operators that return their first argument."""


def known(func: Any, args: Sequence[Any], kwargs: Any) -> Any:
    """What an operator gives on meta tensors; None where torch has to say it."""
    if kwargs or not args:
        return None
    if func is aten.cat.default:
        return _cat(*args)
    if not isinstance(args[0], Tensor) or not args[0].is_floating_point():
        return None
    if func in SAME:
        return _like(args[0])
    if func in IN_PLACE:
        return args[0]
    rule = RULES.get(func)
    return None if rule is None else rule(*args)


def _like(x: Tensor) -> Tensor | None:
    return x.new_empty(x.shape) if x.is_contiguous() else None


def _binary(x: Tensor, y: Tensor | float) -> Tensor | None:
    if not isinstance(y, Tensor):
        return _like(x) if type(y) in (int, float) else None
    if not _plain(x, y):
        return None
    rank = max(x.dim(), y.dim())
    first, second = ((1,) * (rank - tensor.dim()) + tuple(tensor.shape) for tensor in (x, y))
    if any(a != b and 1 not in (a, b) for a, b in zip(first, second, strict=True)):
        return None
    return x.new_empty([b if a == 1 else a for a, b in zip(first, second, strict=True)])


def _onto(x: Tensor, y: Tensor | float) -> Tensor | None:
    found = _binary(x, y)
    return x if found is not None and found.shape == x.shape else None


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first, *others = tensors
    if not _plain(*tensors) or first.dim() == 0 or any(other.dim() != first.dim() for other in others):
        return None
    sizes = [list(tensor.shape) for tensor in tensors]
    length = sum(size[dim] for size in sizes)
    for size in sizes:
        size[dim] = length
    return first.new_empty(sizes[0]) if all(size == sizes[0] for size in sizes) else None


def _pooled(x: Tensor, size: Sequence[int]) -> Tensor | None:
    return x.new_empty((*x.shape[:-2], *size)) if x.is_contiguous() and x.dim() == 4 and len(size) == 2 else None


def _dropout(x: Tensor, p: float, train: bool) -> Tensor | None:
    return None if train else x


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not _plain(x, weight, bias) or x.dim() < 2 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor | None:
    if not _plain(x, weight, bias) or x.dim() != weight.dim() or x.shape[1] != weight.shape[1] * groups:
        return None
    if weight.shape[0] % groups or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    size = [x.shape[0], weight.shape[0], *_windows(x, weight.shape[2:], stride, padding, dilation)]
    return x.new_empty(size) if min(size) > 0 else None


def _max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor | None:
    each = (kernel, stride or kernel, padding, dilation)
    if not x.is_contiguous() or x.dim() != 4 or ceil_mode or any(len(values) not in (1, 2) for values in each):
        return None
    if any(2 * pad > size for pad, size in zip((padding[0], padding[-1]), (kernel[0], kernel[-1]), strict=True)):
        return None
    size = _windows(x, (kernel[0], kernel[-1]), *each[1:])
    return x.new_empty((*x.shape[:2], *size)) if min(size) > 0 else None


def _windows(x: Tensor, kernel: Sequence[int], *how: Sequence[int]) -> list[int]:
    """How often a kernel fits along each dimension of space, by stride, padding and dilation."""
    found = []
    for d, taps in enumerate(kernel):
        step, pad, apart = (values[d % len(values)] for values in how)
        found.append((x.shape[2 + d] + 2 * pad - apart * (taps - 1) - 1) // step + 1)
    return found


def _plain(*tensors: Tensor | None) -> bool:
    """Whether all are of one type, and lie in memory in the usual order."""
    held = [tensor for tensor in tensors if tensor is not None]
    return all(tensor.is_contiguous() and tensor.dtype == held[0].dtype for tensor in held)


RULES: dict[Any, Callable[..., Tensor | None]] = {
    aten.dropout.default: _dropout,
    aten.add.Tensor: _binary,
    aten.sub.Tensor: _binary,
    aten.mul.Tensor: _binary,
    aten.div.Tensor: _binary,
    aten.add_.Tensor: _onto,
    aten.mul_.Tensor: _onto,
    aten.adaptive_avg_pool2d.default: _pooled,
    aten.linear.default: _linear,
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.max_pool2d.default: _max_pool,
}
