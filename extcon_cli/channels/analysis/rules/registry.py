"""The two registries: how channels flow through an operator, and how constants do.

A *flow* rule reads the channels of an operator's arguments, ties or freezes them, and returns the channels of the
result, or a list of them where the operator returns several tensors. A *constants* rule reads what is known of the
arguments and returns what is known of the result: a tensor that broadcasts to its shape, NaN where the value is not a
known constant. Without a rule, nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from extcon_cli.channels.analysis.axes import Value
from extcon_cli.channels.analysis.known import Known
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator

Flow = Callable[[FlowOperator], Value | list[Value]]
Constants = Callable[[KnownOperator], Known]

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


def flow_of(name: str) -> Flow | None:
    """The flow rule of an operator, None where there is none."""
    return _FLOWS.get(name)


def constants_of(name: str) -> Constants | None:
    """The constants rule of an operator, None where nothing can be known of its result."""
    return _CONSTANTS.get(name)
