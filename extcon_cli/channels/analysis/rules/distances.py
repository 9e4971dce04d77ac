"""Distances and angles between vectors of channels: what is zero in both adds nothing."""

from __future__ import annotations

from extcon_cli.channels.analysis.axes import Value
from extcon_cli.channels.analysis.operator import FlowOperator, shape
from extcon_cli.channels.analysis.rules.pointwise import tie_all
from extcon_cli.channels.analysis.rules.registry import flow


@flow("cdist", "_cdist_forward")
def distance(op: FlowOperator) -> Value:
    """(..., P, C) and (..., R, C) give (..., P, R): channels are summed over, the rest is not followed."""
    first, second = op.axes(0), op.axes(1)
    op.refuse((*first[:-1], *second[:-1]), "is one of the vectors compared")
    _end(op, len(first) - 1, len(second) - 1)
    return (None,) * op.rank


@flow("cosine_similarity")
def similarity(op: FlowOperator) -> Value:
    """Along `dim` channels are summed over; elsewhere vectors are broadcast to each other."""
    dim = op.dim(op.rank + 1)
    first, second = (_in_front(op.axes(place), op.rank + 1) for place in (0, 1))
    op.refuse((axis for d in range(op.rank + 1) if d != dim for axis in (first[d], second[d])), "is compared")
    _end(op, *(len(op.axes(place)) - op.rank - 1 + dim for place in (0, 1)))
    return (None,) * op.rank


def _in_front(value: Value, rank: int) -> Value:
    return (None,) * (rank - len(value)) + value


def _end(op: FlowOperator, first: int, second: int) -> None:
    """The channels of both end here, along these dimensions."""
    same = shape(op.input(0))[first] == shape(op.input(1))[second]
    axes = [op.axes(0)[first], op.axes(1)[second]]
    if not same:
        op.freeze(axes, "is broadcast")
    elif len(tie_all(op, axes)) == 2:
        op.read_zeros(op.input(0), first)
        op.read_zeros(op.input(1), second)
