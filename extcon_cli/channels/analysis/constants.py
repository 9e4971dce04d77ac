"""Which channels are known constants, with the weights as they are: dead filters, masked rows, gamma = 0.

The walk is an abstract interpretation in float64: NaN means "not a known constant". Only what every input gives is
known, so that the result holds for all inputs and all resolutions. Of complex numbers nothing is known.

Operators that jump (round, sign, casts to integers) give one number or another where rounding decides, and float32,
float64 and every kernel round in their own way. What they give is known only where rounding cannot decide it: a second
walk computes in each value's own type, and a jump between the two, or a few roundings beside them, leaves it unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from extcon_cli.channels.analysis import rules
from extcon_cli.channels.analysis.axes import Consumer, Index
from extcon_cli.channels.analysis.groups import Channels
from extcon_cli.channels.analysis.known import Known, per_channel, unknown
from extcon_cli.channels.analysis.operator import KnownOperator, NotLiteral, Operator, dtype
from extcon_cli.channels.analysis.trace import Graph
from extcon_cli.channels.modules import named_tensors

ROUNDINGS = 4  # how many of them may lie between two kernels' results


@dataclass(frozen=True, eq=False)
class ConsumerInput:
    """What a consumer reads, with the weights as they are."""

    consumer: Consumer
    channel_ids: Index  # (channels read,)
    constants: NDArray[np.float64]  # (channels read,) what the channel always is; NaN: no known constant


@torch.no_grad()
def consumer_inputs(module: nn.Module, channels: Channels) -> list[ConsumerInput]:
    """What every consumer reads: the work that classifying channels and planning their removal share."""
    wanted = {consumer.input for consumer in channels.consumers}
    known: dict[fx.Node, Known] = {}
    for graph in channels.graphs:
        known |= _known_values(module, graph, wanted)
    found: dict[object, ConsumerInput] = {}
    for consumer in channels.consumers:
        value = known[consumer.input]
        assert isinstance(value, Tensor)
        constants = per_channel(value, consumer.input_dim, len(consumer.axis.positions))
        read = ConsumerInput(consumer, channels.ids_along(consumer.axis), constants.numpy())
        if len(channels.graphs) == 1:
            found[consumer.node, consumer.weight, consumer.input] = read
        else:  # the same map in the graphs of several examples is one map
            same = consumer.weight, consumer.dim, consumer.bias, consumer.groups, read.channel_ids.tobytes()
            found[same] = _both(found[same], read) if same in found else read
    return list(found.values())


def _both(first: ConsumerInput, second: ConsumerInput) -> ConsumerInput:
    """What is known of a map's input whichever example runs."""
    constants = np.where(first.constants == second.constants, first.constants, np.nan)
    padded = first.consumer.padded or second.consumer.padded
    return ConsumerInput(replace(first.consumer, padded=padded), first.channel_ids, constants)


def _known_values(module: nn.Module, graph: Graph, wanted: set[fx.Node]) -> dict[fx.Node, Known]:
    """What is known of the wanted nodes' values, as tensors that broadcast to the value's shape."""
    tensors = named_tensors(module)
    last_use = {read: step for step, node in enumerate(graph.nodes) for read in node.all_input_nodes}
    called = [Operator(node) for node in graph.nodes if node.op == "call_function"]
    jumping = {op.node for op in called if rules.constants_of(op.name) is not None and rules.jumps(op)}
    exact: dict[fx.Node, Known] = {}
    own: dict[fx.Node, Known] = {}  # the same, computed in each value's own type: only where an operator jumps
    for step, node in enumerate(graph.nodes):
        name = graph.stored.get(node.name) if node.op == "placeholder" else None
        op, value = KnownOperator(node, exact), node.meta.get("val")
        rule = _rule_of(node)
        if isinstance(value, Tensor) and value.is_complex():
            exact[node] = own[node] = _unknown(value)
        elif name is not None and name not in graph.changing:
            exact[node] = own[node] = held = tensors[name].detach().cpu()
            if jumping and held.is_floating_point():
                exact[node] = held.double()
        elif rule is None and node.op != "output":
            exact[node] = own[node] = _unknown(value)
        elif rule is not None and node in jumping:
            exact[node] = own[node] = _settled(node, rule, exact, own)
        elif rule is not None:
            exact[node] = rule(op)
            if jumping:
                own[node] = _in_own_type(rule(KnownOperator(node, own)), value)
        for read in node.all_input_nodes:
            if last_use[read] == step and read not in wanted:
                del exact[read]
                own.pop(read, None)
    return exact


def _rule_of(node: fx.Node) -> rules.Constants | None:
    """What is known of a node's tensors; None where nothing is. Nor is it where a literal that it needs is computed."""
    rule, value = rules.constants_of(Operator(node).name), node.meta.get("val")
    if rule is None or node.op != "call_function" or not isinstance(value, (Tensor, list, tuple)):
        return None
    known = rule

    def guarded(op: KnownOperator) -> Known:
        try:
            return known(op)
        except NotLiteral:
            return _unknown(value)

    return guarded


def _settled(
    node: fx.Node, rule: rules.Constants, exact: Mapping[fx.Node, Known], own: Mapping[fx.Node, Known]
) -> Tensor:
    """What is known of an operator that jumps: one result from both ends of what rounding may make of its inputs."""
    op, low, high, room = KnownOperator(node, exact), dict(exact), dict(exact), torch.zeros((), dtype=torch.float64)
    for read in op.tensors:
        first, second = exact[read], own[read]
        if not dtype(read).is_floating_point or not isinstance(first, Tensor) or not isinstance(second, Tensor):
            continue
        least, most = torch.minimum(first.double(), second.double()), torch.maximum(first.double(), second.double())
        rounding = ROUNDINGS * torch.finfo(dtype(read)).eps * torch.maximum(least.abs(), most.abs())
        was_exact = (least == most) & (op.name not in rules.QUOTIENTS)  # no rounding so far, and none before the jump
        margin = torch.where(was_exact, 0.0, rounding)
        low[read], high[read] = least - margin, most + margin
        room = room + (most - least + 2 * margin).nan_to_num(nan=0.0)
    given = [_tensor(rule(KnownOperator(node, known))).double() for known in (exact, own, low, high)]
    spread = reduce(torch.maximum, given) - reduce(torch.minimum, given)
    return torch.where(spread <= (2 * room if rules.moves_between_jumps(op) else 0), given[0], torch.nan)


def _tensor(value: Known) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _in_own_type(value: Known, held: object) -> Known:
    """A known value as the model holds it; integers stay float64, which has a NaN."""
    if isinstance(value, Tensor):
        floating = isinstance(held, Tensor) and held.is_floating_point()
        return value.to(held.dtype) if floating and isinstance(held, Tensor) else value
    if isinstance(value, Sequence) and isinstance(held, Sequence):
        return [_in_own_type(part, each) for part, each in zip(value, held, strict=True)]
    return value


def _unknown(value: object) -> Known:
    """Nothing is known of a value, or of any of several; a number that the model computes is a tensor without rank."""
    if isinstance(value, Tensor):
        return unknown(value.dim())
    if isinstance(value, (list, tuple)):
        return [_unknown(part) for part in value]
    return unknown(0) if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) else None
