"""Which channels are known constants, with the weights as they are: dead filters, masked rows, gamma = 0.

The walk is an abstract interpretation in float64: NaN means "not a known constant". Only what every input gives is
known, so that the result holds for all inputs and all resolutions. Of complex numbers nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from extcon_cli.channels.analysis import rules
from extcon_cli.channels.analysis.axes import Consumer, Index
from extcon_cli.channels.analysis.groups import Channels
from extcon_cli.channels.analysis.known import Known, per_channel, unknown
from extcon_cli.channels.analysis.operator import KnownOperator
from extcon_cli.channels.modules import named_tensors


@dataclass(frozen=True, eq=False)
class ConsumerInput:
    """What a consumer reads, with the weights as they are."""

    consumer: Consumer
    channel_ids: Index  # (channels read,)
    constants: NDArray[np.float64]  # (channels read,) what the channel always is; NaN: no known constant


@torch.no_grad()
def consumer_inputs(module: nn.Module, channels: Channels) -> list[ConsumerInput]:
    """What every consumer reads: the work that classifying channels and planning their removal share."""
    known = _known_values(module, channels, {consumer.input for consumer in channels.consumers})
    found = []
    for consumer in channels.consumers:
        value = known[consumer.input]
        assert isinstance(value, Tensor)
        constants = per_channel(value, consumer.input_dim, len(consumer.axis.positions))
        found.append(ConsumerInput(consumer, channels.ids_along(consumer.axis), constants.numpy()))
    return found


def _known_values(module: nn.Module, channels: Channels, wanted: set[fx.Node]) -> dict[fx.Node, Known]:
    """What is known of the wanted nodes' values, as tensors that broadcast to the value's shape."""
    tensors = named_tensors(module)
    graph = channels.graph
    last_use = {read: step for step, node in enumerate(graph.nodes) for read in node.all_input_nodes}
    known: dict[fx.Node, Known] = {}
    for step, node in enumerate(graph.nodes):
        name = graph.stored.get(node.name) if node.op == "placeholder" else None
        op, value = KnownOperator(node, known), node.meta.get("val")
        rule = rules.constants_of(op.name) if node.op == "call_function" else None
        if isinstance(value, Tensor) and value.is_complex():
            known[node] = _unknown(value)
        elif name is not None and name not in graph.changing:
            known[node] = tensors[name].detach().cpu()
        elif node.op != "output":
            known[node] = rule(op) if rule is not None else _unknown(value)
        for read in node.all_input_nodes:
            if last_use[read] == step and read not in wanted:
                del known[read]
    return known


def _unknown(value: object) -> Known:
    """Nothing is known of a value, or of any of several."""
    if isinstance(value, Tensor):
        return unknown(value.dim())
    if isinstance(value, (list, tuple)):
        return [_unknown(part) for part in value]
    return None
