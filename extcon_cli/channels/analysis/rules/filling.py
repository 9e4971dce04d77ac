"""Operators that put one number at every position, whatever stood there."""

from __future__ import annotations

from torch import Tensor

from extcon_cli.channels.analysis.axes import Value
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator
from extcon_cli.channels.analysis.rules.registry import constants, flow


@flow("new_zeros", "new_ones", "new_full", "new_empty")
def unrelated(op: FlowOperator) -> Value:
    """A new tensor that takes its type and place from another one, and no more."""
    return (None,) * op.rank


@flow("zeros_like", "zero", "ones_like", "full_like", "empty_like", "fill")
def blank(op: FlowOperator) -> Value:
    """A number at each position of a value like the first."""
    return op.axes(0)


@constants("zeros_like", "zero", "new_zeros", "ones_like", "new_ones", "full_like", "new_full", "fill")
def everywhere(op: KnownOperator) -> Tensor:
    """The same number everywhere."""
    number = op.value("value" if op.name == "fill" else "fill_value", int("ones" in op.name))
    return op.constant_of(number).double().reshape((1,) * op.rank)
