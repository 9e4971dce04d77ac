"""Normalisation: batch and instance norm act on each channel alone; layer and group norm mix them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Axis, Consumer, Value, ZeroSource
from extcon_cli.channels.analysis.rules.linear import per_channel, stored_name
from extcon_cli.channels.analysis.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.analysis.trace import argument, called_by, holds_tensor, operator, shape, source
from extcon_cli.channels.modules import is_norm

BATCH = (
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "native_batch_norm",
)


@flow(*BATCH, "instance_norm")
def channelwise(analysis: Analysis, node: fx.Node) -> Value | tuple[Value, ...]:
    """Every stored vector is tied to dimension 1; (gamma, beta) both zero make the channel zero.

    Statistics of the input itself run over space, in batch norm over the batch as well.
    """
    value = value_of(analysis, node.args[0])
    axis = value[1]
    stored = [argument(node, name) for name in ("weight", "bias", "running_mean", "running_var")]
    vectors = [value_of(analysis, vector)[0] for vector in stored if vector is not None]
    if _of_input(node):
        over = value[2:] if operator(node) == "instance_norm" else (value[0], *value[2:])
        analysis.freeze(over, f"{operator(node)} averages over these channels in {source(node)}")
    if axis is None:
        analysis.freeze(vectors, f"normalises what no removable channel feeds in {source(node)}")
        return _as_returned(node, value)
    for vector in vectors:
        if vector is None:
            analysis.freeze([axis], f"is normalised with numbers that are computed, not stored, in {source(node)}")
        else:
            analysis.tie(axis.positions, vector.positions)
    scale = value_of(analysis, stored[0])
    if scale and scale[0] is not None:
        names = [stored_name(analysis, vector) for vector in stored[:2]]
        parts = tuple((name, 0) for name in names if name is not None)
        axis = Axis(axis.positions, ((ZeroSource(parts), scale[0].sources[0][1]),))
    return _as_returned(node, (value[0], axis, *value[2:]))


@flow("layer_norm", "group_norm", "rms_norm")
def mixing(analysis: Analysis, node: fx.Node) -> Value:
    """The mean divides by the width, so that removing a channel changes the others: frozen.

    A module that can count removed zeros in its mean (`narrow.py`) lets channels pass that come as zeros.
    """
    value = value_of(analysis, node.args[0])
    weight, owner = argument(node, "weight"), analysis.modules.get(called_by(node))
    name = stored_name(analysis, weight)
    own = name is not None and analysis.modules.get(name.rpartition(".")[0]) is owner
    dim = 1 if operator(node) == "group_norm" else len(value) - 1
    if own and is_norm(owner) and value[dim] is not None:
        if dim == 1:
            analysis.freeze(value[2:], f"group_norm averages along it in {source(node)}")
        return (*value[:dim], _counted(analysis, node, value[dim], dim), *value[dim + 1 :])
    rank = len(shape(node)) - 1 if operator(node) == "group_norm" else len(argument(node, "normalized_shape"))
    normalised = value[1:] if operator(node) == "group_norm" else value[len(value) - rank :]
    reason = f"{operator(node)} averages over these channels in {source(node)}"
    analysis.freeze(normalised, reason)
    for vector in (argument(node, "weight"), argument(node, "bias")):
        analysis.freeze(value_of(analysis, vector), reason)
    return value


def _counted(analysis: Analysis, node: fx.Node, axis: Axis | None, dim: int) -> Axis | None:
    """(gamma, beta) both zero make the channel zero; what the mean counts has to come as zero besides."""
    if axis is None:
        return None
    vectors = [vector for vector in (argument(node, "weight"), argument(node, "bias")) if vector is not None]
    for vector in vectors:
        found = value_of(analysis, vector)[0]
        analysis.freeze([axis] if found is None else (), f"is normalised with computed numbers in {source(node)}")
        analysis.tie(axis.positions, axis.positions if found is None else found.positions)
    name = stored_name(analysis, vectors[0])
    assert name is not None
    assert isinstance(node.args[0], fx.Node)
    analysis.consumers.append(Consumer(node, name, 0, None, node.args[0], dim, axis, is_norm=True))
    parts = tuple((part, 0) for part in (stored_name(analysis, vector) for vector in vectors) if part is not None)
    return Axis(axis.positions, ((ZeroSource(parts), np.arange(len(axis.positions), dtype=np.int64)),))


@constants("layer_norm", "rms_norm", "group_norm")
def scaled(known: Known, node: fx.Node) -> Tensor:
    """gamma = 0 gives beta, whatever x is."""
    weight, bias = argument(node, "weight"), argument(node, "bias")
    if weight is None:
        return torch.full((1,) * len(shape(node)), torch.nan, dtype=torch.float64)
    offset = torch.zeros(()).double() if bias is None else known[bias].double()
    result = torch.where(known[weight] == 0, offset, torch.nan)
    if operator(node) == "group_norm":
        return result.reshape(1, -1, *(1,) * (len(shape(node)) - 2))
    return result.reshape((1,) * (len(shape(node)) - result.dim()) + tuple(result.shape))


@constants(*BATCH, "instance_norm")
def batch_norm(known: Known, node: fx.Node) -> Tensor | list[Tensor]:
    """gamma (x - mean) / sqrt(var + eps) + beta for a known x; gamma = 0 gives beta whatever x is.

    With the statistics of the input itself a constant is its own mean, and beta is what remains.
    """

    def stored(name: str, default: float) -> Tensor:
        vector = argument(node, name)
        return torch.tensor(default).double() if vector is None else known[vector].double()

    read = per_channel(known[node.args[0]], 1, shape(node.args[0])[1])  # type: ignore[index,arg-type]
    scale, offset = stored("weight", 1.0), stored("bias", 0.0)
    if _of_input(node):
        result = torch.where(read.isnan(), torch.nan, offset)
    else:
        mean, var = stored("running_mean", torch.nan), stored("running_var", torch.nan)
        result = scale * (read - mean) / torch.sqrt(var + argument(node, "eps")) + offset
    result = torch.where(scale == 0, offset, result)
    result = result.reshape(1, -1, *(1,) * (known[node.args[0]].dim() - 2))  # type: ignore[index]
    unknown = torch.full((1,), torch.nan, dtype=torch.float64)
    return result if holds_tensor(node) else [result, *[unknown] * (len(node.meta["val"]) - 1)]


def _of_input(node: fx.Node) -> bool:
    """Whether the statistics are those of the input, not stored ones."""
    names = ("training", "train", "use_input_stats")
    return argument(node, "running_mean") is None or any(argument(node, name, False) for name in names)


def _as_returned(node: fx.Node, value: Value) -> Value | tuple[Value, ...]:
    """The functional form returns a tuple (output, saved mean, saved variance)."""
    if operator(node) in ("batch_norm", "instance_norm"):
        return value
    return (value, *((None,),) * (len(node.meta["val"]) - 1))
