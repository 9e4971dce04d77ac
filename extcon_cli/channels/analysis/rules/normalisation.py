"""Normalisation: batch and instance norm act on each channel alone; layer and group norm mix them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from extcon_cli.channels.analysis.axes import Axis, Consumer, Value, ZeroSource
from extcon_cli.channels.analysis.known import along, in_front, per_channel, unknown
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, holds_tensor, shape
from extcon_cli.channels.analysis.rules.norm_modules import is_call_of_norm
from extcon_cli.channels.analysis.rules.pointwise import tie_all
from extcon_cli.channels.analysis.rules.registry import constants, flow

BATCH = (
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "native_batch_norm",
)


@flow(*BATCH, "instance_norm")
def channelwise(op: FlowOperator) -> Value | list[Value]:
    """Every stored vector is tied to dimension 1; (gamma, beta) both zero make the channel zero.

    Statistics of the input itself run over space, in batch norm over the batch as well.
    """
    value = op.axes(0)
    axis = value[1]
    stored = ("weight", "bias", "running_mean", "running_var")
    vectors = [op.axes(name)[0] for name in stored if op.value(name) is not None]
    if _of_input(op):
        over = value[2:] if op.name == "instance_norm" else (value[0], *value[2:])
        op.freeze(over, f"{op.name} averages over these channels")
    if axis is None:
        op.freeze(vectors, "normalises what no removable channel feeds")
        return _as_returned(op, value)
    for vector in vectors:
        if vector is None:
            op.freeze([axis], "is normalised with numbers that are computed, not stored,")
        else:
            op.tie(axis, vector)
    scale = op.axes("weight")
    if scale and scale[0] is not None:
        axis = Axis(axis.positions, ((_gamma_and_beta(op), scale[0].sources[0][1]),))
    return _as_returned(op, (value[0], axis, *value[2:]))


@flow("layer_norm", "group_norm", "rms_norm")
def mixing(op: FlowOperator) -> Value:
    """The mean divides by the width, so that removing a channel changes the others: frozen.

    A module that can count removed zeros in its mean (`is_call_of_norm`) lets channels pass that come as zeros.
    """
    value = op.axes(0)
    dim = 1 if op.name == "group_norm" else len(value) - 1
    axis = value[dim]
    if axis is not None and is_call_of_norm(op):
        if dim == 1:
            op.freeze(value[2:], "group_norm averages along it")
        return (*value[:dim], _counting_zeros(op, axis, dim), *value[dim + 1 :])
    normalised = value[1:] if op.name == "group_norm" else value[len(value) - len(op.integers("normalized_shape")) :]
    op.freeze((*normalised, *op.axes("weight"), *op.axes("bias")), f"{op.name} averages over these channels")
    return value


def _counting_zeros(op: FlowOperator, axis: Axis, dim: int) -> Axis:
    """(gamma, beta) both zero make the channel zero; what the mean counts has to come as zero besides."""
    for name in ("weight", "bias"):
        for vector in op.axes(name):
            if vector is None:
                op.freeze([axis], "is normalised with computed numbers")
            else:
                op.tie(axis, vector)
    weight = op.parameter("weight")
    assert weight is not None
    op.analysis.consumers.append(Consumer(op.node, weight, 0, None, op.input(0), dim, axis, zeros_only=True))
    return Axis(axis.positions, ((_gamma_and_beta(op), np.arange(len(axis.positions), dtype=np.int64)),))


def _gamma_and_beta(op: FlowOperator) -> ZeroSource:
    """What makes a normalised channel zero, of what is stored."""
    names = [op.parameter(name) for name in ("weight", "bias")]
    return ZeroSource(tuple((name, 0) for name in names if name is not None))


@constants("layer_norm", "rms_norm", "group_norm")
def scaled(op: KnownOperator) -> Tensor:
    """gamma = 0 gives beta, whatever x is."""
    if op.value("weight") is None:
        return op.unknown()
    offset = torch.zeros(()).double() if op.optional_input("bias") is None else op.constant("bias").double()
    result = torch.where(op.constant("weight") == 0, offset, torch.nan)
    return along(result, 1, op.rank) if op.name == "group_norm" else in_front(result, op.rank)


@constants(*BATCH, "instance_norm")
def batch_norm(op: KnownOperator) -> Tensor | list[Tensor]:
    """gamma (x - mean) / sqrt(var + eps) + beta for a known x; gamma = 0 gives beta whatever x is.

    With the statistics of the input itself a constant is its own mean, and beta is what remains.
    """

    def stored(name: str, default: float) -> Tensor:
        return torch.tensor(default).double() if op.value(name) is None else op.constant(name).double()

    read = per_channel(op.constant(0), 1, shape(op.input(0))[1])
    scale, offset = stored("weight", 1.0), stored("bias", 0.0)
    if _of_input(op):
        result = torch.where(read.isnan(), torch.nan, offset)
    else:
        mean, var = stored("running_mean", torch.nan), stored("running_var", torch.nan)
        result = scale * (read - mean) / torch.sqrt(var + op.value("eps")) + offset
    result = along(torch.where(scale == 0, offset, result), 1, op.constant(0).dim())
    return result if holds_tensor(op.node) else [result, *[unknown(1)] * (len(op.results) - 1)]


def _of_input(op: Operator) -> bool:
    """Whether the statistics are those of the input, not stored ones."""
    flags = ("training", "train", "use_input_stats")
    return op.value("running_mean") is None or any(op.flag(name) for name in flags)


def _as_returned(op: FlowOperator, value: Value) -> Value | list[Value]:
    """The functional form returns several: output, saved mean, saved variance."""
    if op.name in ("batch_norm", "instance_norm"):
        return value
    return [value, *[(None,)] * (len(op.results) - 1)]


@flow("_weight_norm", "_weight_norm_interface")
def weight_norm(op: FlowOperator) -> Value | list[Value]:
    """g v / ||v||, a norm for each index of one dimension: zero where g is. The others are normalised over."""
    value, gains = op.axes("v"), op.axes("g")
    dim = op.dim(len(value))
    op.freeze((axis for place, axis in enumerate(value) if place != dim), "a weight is normalised over it")
    op.freeze((axis for place, axis in enumerate(gains) if place != dim), "a weight is normalised over it")
    rows = tie_all(op, [gains[dim], value[dim]])
    result = (*value[:dim], rows[0] if len(rows) == 2 else None, *value[dim + 1 :])
    return result if holds_tensor(op.node) else [result, (None,) * len(op.results[1].shape)]


@constants("_weight_norm", "_weight_norm_interface")
def weight_normed(op: KnownOperator) -> Tensor | list[Tensor]:
    """g v / ||v|| where both are known."""
    v, g = op.full("v").double(), op.constant("g").double()
    dim = op.dim(v.dim())
    result = v * (g / torch.linalg.vector_norm(v, dim=[d for d in range(v.dim()) if d != dim], keepdim=True))
    return result if holds_tensor(op.node) else [result, unknown(len(op.results[1].shape))]
