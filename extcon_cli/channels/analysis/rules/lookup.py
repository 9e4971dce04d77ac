"""Operators that look positions up by number: what is indexed stays, the other dimensions carry their channels."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Axis, Value
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, shape
from extcon_cli.channels.analysis.rules.registry import constants, flow


@flow("embedding")
def embedding(op: FlowOperator) -> Value:
    """Rows are looked up; each column of the table is a channel that begins here."""
    rows, columns = op.axes("weight")
    op.freeze([rows], "is looked up by number")
    if columns is not None:
        op.analysis.produced.append(columns.positions)
    return (*op.axes("indices"), columns)


@constants("embedding")
def embedded(op: KnownOperator) -> Tensor:
    """A column of equal numbers gives that number, whatever is looked up."""
    table = op.constant("weight")
    low, high = table.amin(0), table.amax(0)
    found = torch.where(low == high, low.double(), torch.nan)
    return found.reshape(*(1,) * (op.rank - 1), -1)


@flow("index", "index_select", "_unsafe_index")
def index(op: FlowOperator) -> Value:
    """The indexed dimensions stay; those of the indices take their place, in front if they are not neighbours."""
    value, indexed = op.axes(0), _indexed(op)
    op.freeze([value[dim] for dim in indexed], f"{op.name} picks positions by number")
    op.freeze((axis for numbers in _indices(op) for axis in op.axes_of(numbers)), "is a number")
    kept = [axis for dim, axis in enumerate(value) if dim not in indexed]
    place = _place(indexed)
    new: list[Axis | None] = [None] * (op.rank - len(kept))
    return (*kept[:place], *new, *kept[place:])


@constants("index", "index_select", "_unsafe_index")
def indexed_constants(op: KnownOperator) -> Tensor:
    """What is equal all along the indexed dimensions is so after it."""
    read, indexed = op.constant(0), _indexed(op)
    low, high = read.amin(indexed), read.amax(indexed)
    kept = torch.where(low == high, low, torch.nan)
    place, new = _place(indexed), op.rank - kept.dim()
    return kept.reshape(*kept.shape[:place], *(1,) * new, *kept.shape[place:])


def _indices(op: Operator) -> list[fx.Node]:
    """The tensors of numbers."""
    return [op.input("index")] if op.name == "index_select" else op.inputs("indices")


def _indexed(op: Operator) -> list[int]:
    """The dimensions that are indexed."""
    if op.name == "index_select":
        return [op.dim(len(shape(op.input(0))))]
    return [dim for dim, numbers in enumerate(op.value("indices")) if numbers is not None]


def _place(indexed: list[int]) -> int:
    """Where the dimensions of the indices come to stand."""
    neighbours = indexed == list(range(indexed[0], indexed[0] + len(indexed)))
    return indexed[0] if neighbours else 0


@flow("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sample(op: FlowOperator) -> Value:
    """Every channel is read at the same places of the grid."""
    value, grid = op.axes(0), op.axes("grid")
    op.freeze((*value[2:], *grid), "places are looked up")
    return (value[0], value[1], *(None,) * (len(value) - 2))


@constants("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sampled(op: KnownOperator) -> Tensor:
    """Zero where it reads zeros only, whatever is put beyond the borders."""
    read = op.constant(0)
    zero = (read == 0).flatten(2).all(2)
    return torch.where(zero, 0.0, torch.nan).double().reshape(*zero.shape, *(1,) * (read.dim() - 2))
