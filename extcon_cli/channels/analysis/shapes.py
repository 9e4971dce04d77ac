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
    aten.relu.default, aten.gelu.default, aten.silu.default, aten.sigmoid.default, aten.tanh.default,
    aten.hardswish.default, aten.hardsigmoid.default, aten.hardtanh.default, aten.leaky_relu.default,
    aten.elu.default, aten.mish.default, aten.neg.default, aten.sqrt.default, aten.rsqrt.default, aten.exp.default,
    aten.sin.default, aten.cos.default,
}  # fmt: skip
"""Operators whose result has the shape, the type and the order of their first argument, where it holds floats."""
IN_PLACE = {
    aten.relu_.default, aten.silu_.default, aten.hardswish_.default, aten.hardsigmoid_.default, aten.hardtanh_.default,
    aten.leaky_relu_.default, aten.elu_.default, aten.mish_.default,
}  # fmt: skip
"""Operators that return their first argument."""


def known(func: Any, args: Sequence[Any], kwargs: Any) -> Any:
    """What an operator gives on meta tensors; None where torch has to say it."""
    if func is aten.scaled_dot_product_attention.default:
        return _attention(*args, **kwargs)
    if kwargs or not args:
        return None
    if func is aten.cat.default:
        return _cat(*args)
    if not isinstance(args[0], Tensor) or not args[0].is_floating_point():
        return None
    if func in SAME:
        return _like(args[0])
    if func is aten.batch_norm.default:
        return _made(args[0], args[0].shape) if args[0].is_contiguous() else None
    if func in IN_PLACE:
        return args[0]
    rule = RULES.get(func)
    return None if rule is None else rule(*args)


def _made(like: Tensor, size: Sequence[int]) -> Tensor:
    """A tensor of this size, of the type of another; torch's own `new_empty` runs through Python."""
    return torch.empty(size, dtype=like.dtype, device=like.device)


def _like(x: Tensor) -> Tensor | None:
    if x.is_contiguous():
        return _made(x, x.shape)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device) if _is_dense(x) else None


def _is_dense(x: Tensor) -> bool:
    """Whether its numbers lie in memory without gaps, in whatever order."""
    steps = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and stride != steps:
            return False
        steps *= size
    return True


def _binary(x: Tensor, y: Tensor | float) -> Tensor | None:
    if not isinstance(y, Tensor):
        return _like(x) if type(y) in (int, float) else None
    if x.dtype != y.dtype:
        return None
    rank = max(x.dim(), y.dim())
    first, second = ((1,) * (rank - tensor.dim()) + tuple(tensor.shape) for tensor in (x, y))
    if any(a != b and 1 not in (a, b) for a, b in zip(first, second, strict=True)):
        return None
    size = [b if a == 1 else a for a, b in zip(first, second, strict=True)]
    if not _plain(x, y):  # where each length has a stride of its own, the first tensor that has several gives the order
        whole = x if sum(length > 1 for length in x.shape) > 1 else y
        return _like(whole) if [*whole.shape] == size and 1 not in size else None
    return _made(x, size)


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
    return _made(first, sizes[0]) if all(size == sizes[0] for size in sizes) else None


def _pooled(x: Tensor, size: Sequence[int]) -> Tensor | None:
    return _made(x, (*x.shape[:-2], *size)) if x.is_contiguous() and x.dim() == 4 and len(size) == 2 else None


def _dropout(x: Tensor, p: float, train: bool) -> Tensor | None:
    return None if train else x


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if x.dtype != weight.dtype or x.dim() < 2 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and (bias.shape, bias.dtype) != (weight.shape[:1], x.dtype):
        return None
    return _made(x, (*x.shape[:-1], weight.shape[0]))


def _layer_norm(
    x: Tensor, size: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, *how: Any
) -> Tensor | None:
    fits = all(one is None or (one.dtype, [*one.shape]) == (x.dtype, [*size]) for one in (weight, bias))
    return _made(x, x.shape) if fits and size and [*x.shape[-len(size) :]] == [*size] else None


def _group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *how: Any
) -> Tensor | None:
    fits = all(one is None or (one.dtype, one.shape) == (x.dtype, x.shape[1:2]) for one in (weight, bias))
    return _made(x, x.shape) if fits and x.is_contiguous() and x.dim() > 2 and x.shape[1] % groups == 0 else None


def _power(x: Tensor, exponent: float) -> Tensor | None:
    return _like(x) if type(exponent) in (int, float) else None


def _mean(x: Tensor, dims: Sequence[int] | None, keepdim: bool = False) -> Tensor | None:
    if not dims or not x.is_contiguous() or any(not -x.dim() <= dim < x.dim() for dim in dims):
        return None
    gone = {dim % x.dim() for dim in dims}
    if len(gone) < len(dims):
        return None
    return _made(x, [1 if dim in gone else size for dim, size in enumerate(x.shape) if keepdim or dim not in gone])


def _attention(
    query: Tensor,  # (N, heads, L, E)
    key: Tensor,  # (N, heads, S, E)
    value: Tensor,  # (N, heads, S, V)
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """As the meta kernel gives it: in the usual order, whatever the order of what is read."""
    if not query.dim() == key.dim() == value.dim() == 4 or not query.dtype == key.dtype == value.dtype:
        return None
    *outer, length, width = query.shape
    seen = value.shape[-2]
    if dropout_p or enable_gqa or [*key.shape] != [*outer, seen, width] or [*value.shape[:-1]] != [*outer, seen]:
        return None
    if attn_mask is not None and (is_causal or not _broadcasts(attn_mask.shape, (*outer, length, seen))):
        return None
    return _made(query, (*outer, length, value.shape[-1]))


def _broadcasts(size: Sequence[int], onto: Sequence[int]) -> bool:
    """Whether a tensor of this size can be broadcast to another size."""
    there = onto[len(onto) - len(size) :]
    return len(size) <= len(onto) and all(a in (1, b) for a, b in zip(size, there, strict=True))


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
    return _made(x, size) if min(size) > 0 else None


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
    return _made(x, (*x.shape[:2], *size)) if min(size) > 0 else None


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
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.pow.Tensor_Scalar: _power,
    aten.mean.dim: _mean,
    aten.scaled_dot_product_attention.default: _attention,
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.max_pool2d.default: _max_pool,
}
