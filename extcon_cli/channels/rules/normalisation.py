"""Normalisation: batch and instance norm act on each channel alone; layer and group norm mix them."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from extcon_cli.channels.axes import Analysis, Axis, Site, Value
from extcon_cli.channels.rules.linear import per_channel, stored_name
from extcon_cli.channels.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.trace import argument, operator, shape, source

BATCH = (
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "native_batch_norm",
)


@flow(*BATCH, "instance_norm")
def channelwise(analysis: Analysis, node: fx.Node) -> Value | tuple[Value, ...]:
    """Every stored vector is tied to dimension 1; (gamma, beta) both zero make the channel zero."""
    value = value_of(analysis, node.args[0])
    axis = value[1]
    stored = [argument(node, name) for name in ("weight", "bias", "running_mean", "running_var")]
    vectors = [value_of(analysis, vector)[0] for vector in stored if vector is not None]
    if axis is None:
        analysis.freeze(vectors, f"normalises what no removable channel feeds in {source(node)}")
        return _as_returned(node, value)
    for vector in vectors:
        if vector is not None:
            analysis.tie(axis.atoms, vector.atoms)
    scale = value_of(analysis, stored[0])
    if scale and scale[0] is not None:
        names = [stored_name(analysis, vector) for vector in stored[:2]]
        parts = tuple((name, 0) for name in names if name is not None)
        axis = Axis(axis.atoms, ((Site(parts), scale[0].sites[0][1]),))
    return _as_returned(node, (value[0], axis, *value[2:]))


@flow("layer_norm", "group_norm", "rms_norm")
def mixing(analysis: Analysis, node: fx.Node) -> Value:
    """The mean divides by the width, so that removing a channel changes the others: frozen."""
    value = value_of(analysis, node.args[0])
    rank = len(shape(node)) - 1 if operator(node) == "group_norm" else len(argument(node, "normalized_shape"))
    normalised = value[1:] if operator(node) == "group_norm" else value[len(value) - rank :]
    reason = f"{operator(node)} averages over these channels in {source(node)}"
    analysis.freeze(normalised, reason)
    for vector in (argument(node, "weight"), argument(node, "bias")):
        analysis.freeze(value_of(analysis, vector), reason)
    return value


@constants(*BATCH)
def batch_norm(known: Known, node: fx.Node) -> Tensor | list[Tensor]:
    """gamma (x - mean) / sqrt(var + eps) + beta for a known x; gamma = 0 gives beta whatever x is."""
    mean, var = (known[argument(node, name)].double() for name in ("running_mean", "running_var"))
    size = mean.shape[0]
    scale = known[weight] if (weight := argument(node, "weight")) is not None else torch.ones(size).double()
    offset = known[bias] if (bias := argument(node, "bias")) is not None else torch.zeros(size).double()
    read = per_channel(known[node.args[0]], 1, size)  # type: ignore[index]
    result = scale * (read - mean) / torch.sqrt(var + argument(node, "eps")) + offset
    result = torch.where(scale == 0, offset, result)
    result = result.reshape(1, -1, *(1,) * (known[node.args[0]].dim() - 2))  # type: ignore[index]
    unknown = torch.full((1,), torch.nan, dtype=torch.float64)
    return result if operator(node) == "batch_norm" else [result, *[unknown] * (len(node.meta["val"]) - 1)]


def _as_returned(node: fx.Node, value: Value) -> Value | tuple[Value, ...]:
    """The functional form returns a tuple (output, saved mean, saved variance)."""
    if operator(node) in ("batch_norm", "instance_norm"):
        return value
    return (value, *((None,),) * (len(node.meta["val"]) - 1))
