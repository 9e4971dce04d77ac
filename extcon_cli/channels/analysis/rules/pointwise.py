"""Elementwise operators: every position keeps its channel, and positions that meet are the same channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Axis, Value, join_axes
from extcon_cli.channels.analysis.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.analysis.trace import argument, holds_tensor, operator, shape, source

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
MEETING = (*PRODUCTS, "add", "sub", "rsub", "pow", "maximum", "minimum")


@flow(*UNARY, *SAME)
def keep(analysis: Analysis, node: fx.Node) -> Value:
    """One input, the same shape: the channels pass."""
    if sum(holds_tensor(other) for other in node.all_input_nodes) > 1:  # clamp with tensors as bounds
        return meet(analysis, node)
    value = value_of(analysis, node.args[0])
    if _draws(node):
        analysis.freeze(value, f"{operator(node)} draws a random number for each position in {source(node)}")
    if operator(node) in UNARY and not _keeps_zero(node):
        return tuple(axis and replace(axis, zero=False) for axis in value)
    return value


def _keeps_zero(node: fx.Node) -> bool:
    """Whether the operator gives zero for zero."""
    args = [torch.zeros(1) if isinstance(arg, fx.Node) else arg for arg in node.args]
    try:
        result: Tensor = getattr(torch.ops.aten, operator(node))(*args, **node.kwargs)
    except (RuntimeError, TypeError):  # a bound that is a tensor
        return False
    return bool(result == 0)


@flow("_assert_tensor_metadata")
def say(analysis: Analysis, node: fx.Node) -> Value:
    """A check that the tracer has put in; the module itself has none."""
    return ()


def _draws(node: fx.Node) -> bool:
    return operator(node) in DROPOUT and bool(argument(node, "train"))


@flow(*MEETING)
def meet(analysis: Analysis, node: fx.Node) -> Value:
    """Broadcast: positions that meet are tied; meeting one that carries no channels freezes the other."""
    tensors = [arg for arg in node.all_input_nodes if holds_tensor(arg)]
    sizes = shape(node)
    result: list[Axis | None] = []
    for back in range(-len(sizes), 0):
        meeting = [t for t in tensors if -back <= len(shape(t)) and shape(t)[back] == sizes[back]]
        result.append(_join(analysis, node, [value_of(analysis, t)[back] for t in meeting]))
    if len(tensors) == 1 and not _keeps_zero(node):  # beside a number, such as 1 + weight
        return tuple(axis and replace(axis, zero=False) for axis in result)
    return tuple(result)


@flow(*COMPARISONS)
def compare(analysis: Analysis, node: fx.Node) -> Value:
    """Yes or no for each position; nothing that can be silenced."""
    return tuple(axis and axis.without_sources() for axis in meet(analysis, node))


@flow("where", "masked_fill")
def choose(analysis: Analysis, node: fx.Node) -> Value:
    """One of two values for each position."""
    return meet(analysis, node)


@flow("addcmul", "addcdiv", "lerp")
def blend(analysis: Analysis, node: fx.Node) -> Value:
    """a + value b c, a + value b / c, a + (b - a) c: zero where a and b are; in the first, or c."""
    added, *factors = (value_of(analysis, term) for term in node.args[: 3 if operator(node) == "addcmul" else 2])
    result: list[Axis | None] = []
    for back, axis in zip(range(-len(shape(node)), 0), meet(analysis, node), strict=True):
        product = [factor for value in factors for factor in _along(value, back, axis)]
        zeros = _along(added, back, axis) + ([easiest(product)] if product else [])
        result.append(join_axes(zeros) if zeros else axis)
    return tuple(result)


def _along(value: Value, back: int, result: Axis | None) -> list[Axis]:
    """The value's axis where it meets the result's, not broadcast to it."""
    axis = value[back] if -back <= len(value) else None
    return [axis] if axis is not None and result is not None and len(axis.positions) == len(result.positions) else []


@constants("addcmul", "addcdiv", "lerp")
def blended(known: Known, node: fx.Node) -> Tensor:
    """A product with a known zero is zero; between two equal numbers is the number."""
    first, second, third = (
        known[term].double() if isinstance(term, fx.Node) else torch.tensor(float(term)).double()  # type: ignore[arg-type]
        for term in node.args[:3]
    )
    if operator(node) == "lerp":
        return torch.where(first == second, first, first + (second - first) * third)
    product = second * third if operator(node) == "addcmul" else second / third
    zero = (second == 0) | (third == 0) if operator(node) == "addcmul" else (second == 0) & (third != 0)
    return first + float(argument(node, "value", 1)) * torch.where(zero, 0.0, product)


@flow("new_zeros", "new_ones", "new_full", "new_empty")
def unrelated(analysis: Analysis, node: fx.Node) -> Value:
    """A new tensor that takes its type and place from another one, and no more."""
    return (None,) * len(shape(node))


@flow("zeros_like", "zero", "ones_like", "full_like", "empty_like", "fill")
def blank(analysis: Analysis, node: fx.Node) -> Value:
    """A number at each position, whatever stood there."""
    return value_of(analysis, node.args[0])


@constants("zeros_like", "zero", "new_zeros", "ones_like", "new_ones", "full_like", "new_full", "fill")
def everywhere(known: Known, node: fx.Node) -> Tensor:
    """The same number everywhere."""
    name = operator(node)
    filled = argument(node, "value" if name == "fill" else "fill_value", int("ones" in name))
    value = known[filled].double() if isinstance(filled, fx.Node) else torch.tensor(float(filled)).double()
    return value.reshape((1,) * len(shape(node)))


@constants("where", "masked_fill")
def chosen(known: Known, node: fx.Node) -> Tensor:
    """Known where both values are, and are the same."""
    values = node.args[1:] if operator(node) == "where" else (node.args[0], node.args[2])
    first, second = (known[v].double() if isinstance(v, fx.Node) else torch.tensor(float(v)) for v in values)  # type: ignore[arg-type]
    both = torch.where(first == second, first, torch.nan)
    return both.reshape((1,) * (len(shape(node)) - both.dim()) + tuple(both.shape))


@flow("prelu")
def prelu(analysis: Analysis, node: fx.Node) -> Value:
    """The weight has one entry in all, or one a channel, along dimension 1."""
    value = value_of(analysis, node.args[0])
    if shape(node.args[1])[0] > 1:  # type: ignore[arg-type]
        _join(analysis, node, [value[min(1, len(value) - 1)], value_of(analysis, node.args[1])[0]])
    return value


def _join(analysis: Analysis, node: fx.Node, axes: list[Axis | None]) -> Axis | None:
    carrying = tied(analysis, node, axes)
    if len(carrying) < 2:
        return carrying[0] if carrying else None
    return easiest(carrying) if operator(node) in PRODUCTS else join_axes(carrying)


def tied(analysis: Analysis, node: fx.Node, axes: Sequence[Axis | None]) -> list[Axis]:
    """Tie dimensions that meet position by position, and freeze them if one of them carries no channels."""
    carrying = [axis for axis in axes if axis is not None]
    if carrying and len(carrying) < len(axes):
        analysis.freeze(carrying, f"meets a value without channels of its own in {source(node)}")
    for other in carrying[1:]:
        analysis.tie(carrying[0].positions, other.positions)
    return carrying


def easiest(factors: Sequence[Axis]) -> Axis:
    """One factor at zero is enough: that with the fewest parameters to silence, of those that become zero."""
    fed = [axis for axis in factors if axis.sources]
    silent = [axis for axis in fed if axis.zero] or fed or factors
    chosen = min(silent, key=lambda axis: sum(len(zero_source.parts) for zero_source, _ in axis.sources))
    return replace(chosen, laid_out_by=join_axes(factors).laid_out_by)


@constants(*UNARY, *SAME, *MEETING)
def evaluate(known: Known, node: fx.Node) -> Tensor:
    """A known input gives a known output; a product with a known zero is zero."""
    name = operator(node)
    if name in SAME:
        return _cast(known[node.args[0]], node)  # type: ignore[index]
    args = [known[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
    kwargs = {key: known[arg] if isinstance(arg, fx.Node) else arg for key, arg in node.kwargs.items()}
    result: Tensor = getattr(torch.ops.aten, name)(*args, **kwargs)
    inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    for value in inputs:  # some kernels swallow NaN
        result = torch.where(value.isnan(), torch.nan, result)
    zeros = inputs[: 1 if name == "div" else 2] if name in PRODUCTS else []
    for value in zeros:
        result = torch.where(value == 0, 0.0, result)
    return result


@constants("prelu")
def sloped(known: Known, node: fx.Node) -> Tensor:
    """x where it is positive, slope * x elsewhere; the slopes lie along dimension 1."""
    read, slope = known[node.args[0]], known[node.args[1]]  # type: ignore[index]
    if read.dim() > 1:
        slope = slope.reshape(1, -1, *(1,) * (read.dim() - 2))
    return torch.where(read > 0, read, torch.where(read == 0, 0.0, slope * read))


def _cast(value: Tensor, node: fx.Node) -> Tensor:
    if _draws(node):
        return torch.full_like(value, torch.nan)
    return held_as(value, node.args[0].meta["val"].dtype, node.meta["val"].dtype)  # type: ignore[union-attr]


def held_as(value: Tensor, before: torch.dtype, after: torch.dtype) -> Tensor:
    """A known value as another type holds it: cut to an integer, rounded to half precision."""
    if after == before:
        return value
    return torch.where(value.isnan(), torch.nan, value.nan_to_num(nan=0.0).to(after).double())
