"""Recurrent layers read channels like a linear map; the width of their state stays."""

from __future__ import annotations

from torch import fx

from extcon_cli.channels.analysis.axes import Analysis, Consumer, Value
from extcon_cli.channels.analysis.rules.linear import stored_name
from extcon_cli.channels.analysis.rules.registry import flow, value_of
from extcon_cli.channels.analysis.trace import argument, shape, source


@flow("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(analysis: Analysis, node: fx.Node) -> tuple[Value, ...]:
    """The first layer's W_ih reads the last dimension, in each direction; all else is tied to the state's width."""
    read = node.args[0]
    assert isinstance(read, fx.Node)
    *steps, axis = value_of(analysis, read)
    first = [weight for weight in _first_layer(node) if stored_name(analysis, weight[0]) is not None]
    others = [other for other in node.all_input_nodes if other is not read]
    state = f"{source(node)} holds a state of this width"
    for other in others:
        value = value_of(analysis, other)
        analysis.freeze(value[:1] if any(other is weight for weight, _ in first) else value, state)
    analysis.freeze(steps, f"is a step of the sequence in {source(node)}")
    if axis is not None and not first:
        analysis.freeze([axis], state)
    for weight, bias in first:
        columns, name = value_of(analysis, weight)[1], stored_name(analysis, weight)
        if axis is None or columns is None or name is None:
            analysis.freeze([columns], f"reads what no removable channel feeds in {source(node)}")
            continue
        analysis.tie(axis.positions, columns.positions)
        place = stored_name(analysis, bias)
        analysis.consumers.append(Consumer(node, name, 1, place, read, len(steps), axis))
    return tuple((None,) * len(part.shape) for part in node.meta["val"])


def _first_layer(node: fx.Node) -> list[tuple[fx.Node, fx.Node | None]]:
    """(W_ih, b_ih) of the first layer, for each direction."""
    weights, biased = argument(node, "params"), bool(argument(node, "has_biases"))
    if weights is None or not isinstance(node.args[0], fx.Node) or len(shape(node.args[0])) < 2:
        return []
    directions, each = 1 + bool(argument(node, "bidirectional")), 4 if biased else 2
    if len(weights) != directions * each * int(argument(node, "num_layers")):  # projected states have one more
        return []
    return [(weights[start], weights[start + 2] if biased else None) for start in range(0, directions * each, each)]
