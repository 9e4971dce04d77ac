"""The two registries: how channels flow through an operator, and how constants do.

A *flow* rule reads `analysis.values` of a node's arguments, ties or freezes positions, and returns the node's value.
A *constants* rule reads what is known of its arguments and returns what is known of its result: a tensor that
broadcasts to the result's shape, NaN where the value is not a known constant. Without a rule, nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Value
from extcon_cli.channels.analysis.trace import holds_tensor, operator, shape

Flow = Callable[[Analysis, fx.Node], Value | tuple[Value, ...]]
Known = Mapping[fx.Node, Any]  # a tensor, or a list of them where the operator returns several
Constants = Callable[[Known, fx.Node], "Tensor | list[Tensor]"]

F = TypeVar("F", bound=Flow)
C = TypeVar("C", bound=Constants)

_FLOWS: dict[str, Flow] = {}
_CONSTANTS: dict[str, Constants] = {}


def flow(*operators: str) -> Callable[[F], F]:
    """Register how channels flow through these ATen operators (names without overload)."""

    def register(rule: F) -> F:
        _FLOWS.update(dict.fromkeys(operators, rule))
        return rule

    return register


def constants(*operators: str) -> Callable[[C], C]:
    """Register what is known of the result of these ATen operators."""

    def register(rule: C) -> C:
        _CONSTANTS.update(dict.fromkeys(operators, rule))
        return rule

    return register


def flow_of(node: fx.Node) -> Flow | None:
    """The flow rule of a node's operator, None where there is none."""
    return _FLOWS.get(operator(node))


def constants_of(node: fx.Node) -> Constants | None:
    """The constants rule of a node's operator, None where nothing can be known of its result."""
    return _CONSTANTS.get(operator(node))


def value_of(analysis: Analysis, node: object) -> Value:
    """The channels of an argument; a number, a list or None carries none."""
    if not isinstance(node, fx.Node) or not holds_tensor(node):
        return ()
    value = analysis.values.get(node)
    return value if value is not None else (None,) * len(shape(node))  # type: ignore[return-value]
