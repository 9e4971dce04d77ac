"""Recurrent layers read channels like a linear map; the width of their state stays."""

from __future__ import annotations

from torch import fx

from extcon_cli.channels.analysis.axes import Consumer, Value
from extcon_cli.channels.analysis.operator import FlowOperator, Operator, holds_tensor, shape
from extcon_cli.channels.analysis.rules.registry import flow


@flow("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(op: FlowOperator) -> list[Value]:
    """The first layer's W_ih reads the last dimension, in each direction; all else is tied to the state's width."""
    read = op.input(0)
    *steps, axis = op.axes(0)
    first = [pair for pair in _first_layer(op) if op.analysis.parameter_name(pair[0]) is not None]
    state = f"{op.where} holds a state of this width"
    for other in (other for other in op.node.all_input_nodes if other is not read):
        value = op.axes_of(other)
        op.analysis.freeze(value[:1] if any(other is weight for weight, _ in first) else value, state)
    op.freeze(steps, "is a step of the sequence")
    if not first:
        op.analysis.freeze([axis], state)
    for weight, bias in first:
        columns, name = op.axes_of(weight)[1], op.analysis.parameter_name(weight)
        if axis is None or columns is None or name is None:
            op.freeze([columns], "reads what no removable channel feeds")
            continue
        op.tie(axis, columns)
        op.analysis.consumers.append(
            Consumer(op.node, name, 1, op.analysis.parameter_name(bias), read, len(steps), axis)
        )
    return [(None,) * len(part.shape) for part in op.results]


@flow("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(op: FlowOperator) -> Value | list[Value]:
    """One step: W_ih reads the last dimension, all else is tied to the state's width."""
    *outer, axis = op.axes(0)
    columns = op.axes("w_ih")[1]
    others = [axis for other in op.node.all_input_nodes[1:] for axis in op.axes_of(other)]
    op.freeze((axis for axis in others if axis is not columns), "a state has this width")
    if axis is None or columns is None:
        op.freeze((axis, columns), "reads what no removable channel feeds")
    else:
        op.tie(axis, columns)
        weight, bias = op.parameter("w_ih"), op.parameter("b_ih")
        found = Consumer(op.node, weight or "", 1, bias, op.input(0), len(outer), axis, zeros_only=weight is None)
        op.analysis.consumers.append(found)
    if holds_tensor(op.node):
        return (*outer, None)
    return [(*outer, None) for _ in op.results]


def _first_layer(op: Operator) -> list[tuple[fx.Node, fx.Node | None]]:
    """(W_ih, b_ih) of the first layer, for each direction."""
    if op.value("params") is None or len(shape(op.input(0))) < 2:
        return []
    weights, biased = op.inputs("params"), op.flag("has_biases")
    directions, in_each = 1 + op.flag("bidirectional"), 4 if biased else 2
    in_each += len(weights) > directions * in_each * op.integer("num_layers")  # projected states have one more
    if len(weights) != directions * in_each * op.integer("num_layers"):
        return []
    starts = range(0, directions * in_each, in_each)
    return [(weights[start], weights[start + 2] if biased else None) for start in starts]
