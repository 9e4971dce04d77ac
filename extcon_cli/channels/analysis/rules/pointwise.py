"""Elementwise operators: every position keeps its channel, and positions that meet are the same channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Axis, Value, join_axes
from extcon_cli.channels.analysis.known import held_as, in_front
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, dtype, shape
from extcon_cli.channels.analysis.rules.registry import constants, flow

UNARY = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "hardsigmoid",
    "hardtanh", "sigmoid", "tanh", "softplus", "softsign", "log_sigmoid", "threshold", "hardshrink", "softshrink",
    "tanhshrink", "clamp", "clamp_min", "clamp_max", "abs", "neg", "square", "sqrt", "rsqrt", "exp", "log", "log1p",
    "expm1", "reciprocal", "sin", "cos", "erf", "sign", "floor", "ceil", "round",
)  # fmt: skip
DROPOUT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
SAME = (
    *DROPOUT, "clone", "contiguous", "detach", "alias",
    "to", "_to_copy", "type_as", "lift_fresh_copy", "positive",
)  # fmt: skip
PRODUCTS = ("mul", "div")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or", "isnan", "isinf")
MEETING = (*PRODUCTS, "add", "sub", "rsub", "pow", "maximum", "minimum", "fmax", "fmin")


@flow(*UNARY, *SAME, "nan_to_num")
def keep(op: FlowOperator) -> Value:
    """One input, the same shape: the channels pass."""
    if len(op.tensors) > 1:  # clamp with tensors as bounds
        return meet(op)
    value = op.axes(0, free=True)
    if _draws(op):
        op.freeze(value, f"{op.name} draws a random number for each position")
    if op.name in UNARY and not _keeps_zero(op):
        return tuple(axis and replace(axis, zero=False) for axis in value)
    return value


def _keeps_zero(op: Operator) -> bool:
    """Whether the operator gives zero for zero."""
    args = [torch.zeros(1) if isinstance(arg, fx.Node) else arg for arg in op.node.args]
    try:
        result: Tensor = getattr(torch.ops.aten, op.name)(*args, **op.node.kwargs)
    except (RuntimeError, TypeError):  # a bound that is a tensor
        return False
    return bool(result == 0)


@flow("_assert_tensor_metadata")
def say(op: FlowOperator) -> Value:
    """A check that the tracer has put in; the module itself has none."""
    return ()


def _draws(op: Operator) -> bool:
    """Whether it draws random numbers, as dropout in training mode does."""
    return op.name in DROPOUT and op.flag("train")


@flow(*MEETING)
def meet(op: FlowOperator) -> Value:
    """Broadcast: positions that meet are tied; meeting one that carries no channels freezes the other."""
    result: list[Axis | None] = []
    for back in range(-op.rank, 0):
        meeting = [t for t in op.tensors if -back <= len(shape(t)) and shape(t)[back] == op.shape[back]]
        axes = [op.axes_of(t, free=True)[back] for t in meeting]
        result.append(_quotient(op, back, axes) if op.name == "div" else _join(op, axes))
    if len(op.tensors) == 1 and not _keeps_zero(op):  # beside a number, such as 1 + weight
        return tuple(axis and replace(axis, zero=False) for axis in result)
    return tuple(result)


@flow(*COMPARISONS)
def compare(op: FlowOperator) -> Value:
    """Yes or no for each position; no zeros come of it."""
    return tuple(axis and axis.without_sources() for axis in meet(op))


@flow("where", "masked_fill")
def choose(op: FlowOperator) -> Value:
    """One of two values for each position."""
    return meet(op)


@flow("addcmul", "addcdiv", "lerp")
def blend(op: FlowOperator) -> Value:
    """a + value b c, a + value b / c, a + (b - a) c: zero where a and b are; in the first, or c."""
    added, *factors = (op.axes(position) for position in range(3 if op.name == "addcmul" else 2))
    result: list[Axis | None] = []
    for back, axis in zip(range(-op.rank, 0), meet(op), strict=True):
        product = [factor for value in factors for factor in _along(value, back, axis)]
        zeros = _along(added, back, axis) + ([easiest(product)] if product else [])
        result.append(join_axes(zeros) if zeros else axis)
    return tuple(result)


def _along(value: Value, back: int, result: Axis | None) -> list[Axis]:
    """The value's axis where it meets the result's, not broadcast to it."""
    axis = value[back] if -back <= len(value) else None
    return [axis] if axis is not None and result is not None and len(axis.positions) == len(result.positions) else []


@flow("prelu")
def prelu(op: FlowOperator) -> Value:
    """The weight has one entry in all, or one a channel, along dimension 1."""
    value, slopes = op.axes(0), op.axes("weight")
    if shape(op.input("weight"))[0] > 1:
        _join(op, [value[min(1, len(value) - 1)], slopes[0]])
    return value


def _join(op: FlowOperator, axes: list[Axis | None]) -> Axis | None:
    """The axis of the result where these meet: of a product, one at zero is enough; of a sum, all have to be."""
    carrying = tie_all(op, axes)
    if not carrying:
        return None
    if op.name in PRODUCTS:
        return easiest(carrying)
    joined = join_axes(carrying)
    return joined if len(carrying) == len(axes) else joined.without_sources()  # something is added to each


def _quotient(op: FlowOperator, back: int, axes: list[Axis | None]) -> Axis | None:
    """Zero where what is divided is, whatever it is divided by."""
    carrying = tie_all(op, axes)
    if not carrying:
        return None
    divided = op.axes(0)[back] if -back <= len(op.axes(0)) else None
    if divided is None or len(divided.positions) < len(carrying[0].positions):  # it is broadcast
        return replace(carrying[0], sources=(), zero=False)
    return replace(divided, laid_out_by=join_axes(carrying).laid_out_by)


def tie_all(op: FlowOperator, axes: Sequence[Axis | None]) -> list[Axis]:
    """Tie dimensions that meet position by position, and freeze them if one of them carries no channels.

    One value repeated takes the channels that it meets, and none where another carries none.
    """
    carrying = [axis for axis in axes if axis is not None and not axis.free]
    repeated = [axis for axis in axes if axis is not None and axis.free]
    if len(carrying) + len(repeated) < len(axes):
        op.freeze(carrying, "meets a value without channels of its own")
        repeated = []
    both = carrying + repeated
    for other in both[1:]:
        op.tie(both[0], other)
    return carrying or repeated


def easiest(factors: Sequence[Axis]) -> Axis:
    """One factor at zero is enough: of those that become zero the one with the least to set, buffers last."""
    fed = [axis for axis in factors if axis.sources]
    candidates = [axis for axis in fed if axis.zero] or fed or factors
    chosen = min(candidates, key=_effort)
    return replace(chosen, laid_out_by=join_axes(factors).laid_out_by)


def _effort(axis: Axis) -> tuple[bool, int]:
    """What it takes to make an axis zero: buffers to set, and how many slices."""
    sources = [zero_source for zero_source, _ in axis.sources]
    return any(source.is_buffer for source in sources), sum(len(source.parts) for source in sources)


@constants(*UNARY, *MEETING)
def evaluate(op: KnownOperator) -> Tensor:
    """A known input gives a known output; a product with a known zero is zero."""
    args = [op.constant_of(arg) if isinstance(arg, fx.Node) else arg for arg in op.node.args]
    kwargs = {key: op.constant_of(arg) if isinstance(arg, fx.Node) else arg for key, arg in op.node.kwargs.items()}
    result: Tensor = getattr(torch.ops.aten, op.name)(*args, **kwargs)
    inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    for value in inputs:  # some kernels swallow NaN
        result = torch.where(value.isnan(), torch.nan, result)
    zeros = inputs[: 1 if op.name == "div" else 2] if op.name in PRODUCTS else []
    for value in zeros:
        result = torch.where(value == 0, 0.0, result)
    return result


@constants(*SAME)
def cast(op: KnownOperator) -> Tensor:
    """The same value, as the result's type holds it; dropout that draws leaves nothing known."""
    value = op.constant(0)
    if _draws(op):
        return torch.full_like(value, torch.nan)
    return held_as(value, dtype(op.input(0)), op.dtype)


@constants("addcmul", "addcdiv", "lerp")
def blended(op: KnownOperator) -> Tensor:
    """A product with a known zero is zero; between two equal numbers is the number."""
    first, second, third = (op.constant(position).double() for position in range(3))
    if op.name == "lerp":
        return torch.where(first == second, first, first + (second - first) * third)
    product = second * third if op.name == "addcmul" else second / third
    zero = (second == 0) | (third == 0) if op.name == "addcmul" else (second == 0) & (third != 0)
    return first + float(op.value("value", 1)) * torch.where(zero, 0.0, product)


@constants("where", "masked_fill")
def chosen(op: KnownOperator) -> Tensor:
    """Known where both values are, and are the same."""
    places = (1, 2) if op.name == "where" else (0, 2)
    first, second = (op.constant(place).double() for place in places)
    return in_front(torch.where(first == second, first, torch.nan), op.rank)


@constants("nan_to_num")
def without_nan(op: KnownOperator) -> Tensor:
    """A finite number stays; what takes the place of an infinite one depends on the type."""
    read = op.constant(0)
    return torch.where(read.isfinite(), read, torch.nan)


@constants("prelu")
def sloped(op: KnownOperator) -> Tensor:
    """x where it is positive, slope * x elsewhere; the slopes lie along dimension 1."""
    read, slope = op.constant(0), op.constant("weight")
    if read.dim() > 1:
        slope = slope.reshape(1, -1, *(1,) * (read.dim() - 2))
    return torch.where(read > 0, read, torch.where(read == 0, 0.0, slope * read))
