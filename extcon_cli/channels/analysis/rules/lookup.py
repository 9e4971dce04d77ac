"""Operators that look positions up by number: what is indexed stays, the other dimensions carry their channels."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Axis, Value
from extcon_cli.channels.analysis.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.analysis.trace import argument, operator, shape, source


@flow("embedding")
def embedding(analysis: Analysis, node: fx.Node) -> Value:
    """Rows are looked up; each column of the table is a channel that begins here."""
    rows, columns = value_of(analysis, node.args[0])
    analysis.freeze([rows], f"is looked up by number in {source(node)}")
    if columns is not None:
        analysis.produced.append(columns.positions)
    return (*value_of(analysis, node.args[1]), columns)


@constants("embedding")
def embedded(known: Known, node: fx.Node) -> Tensor:
    """A column of equal numbers gives that number, whatever is looked up."""
    table = known[node.args[0]]  # type: ignore[index]
    low, high = table.amin(0), table.amax(0)
    found = torch.where(low == high, low.double(), torch.nan)
    return found.reshape(*(1,) * (len(shape(node)) - 1), -1)


@flow("index", "index_select", "_unsafe_index")
def index(analysis: Analysis, node: fx.Node) -> Value:
    """The indexed dimensions stay; those of the indices take their place, in front if they are not neighbours."""
    value, indexed = list(value_of(analysis, node.args[0])), _indexed(node)
    analysis.freeze([value[dim] for dim in indexed], f"{operator(node)} picks positions by number in {source(node)}")
    numbers = [number for number in (node.args[1] if operator(node) != "index_select" else [node.args[2]]) if number]  # type: ignore[union-attr]
    analysis.freeze(
        [axis for number in numbers for axis in value_of(analysis, number)], f"is a number in {source(node)}"
    )
    kept: list[Axis | None] = [axis for dim, axis in enumerate(value) if dim not in indexed]
    neighbours = indexed == list(range(indexed[0], indexed[0] + len(indexed)))
    place = indexed[0] if neighbours else 0
    new: list[Axis | None] = [None] * (len(shape(node)) - len(kept))
    return (*kept[:place], *new, *kept[place:])


@constants("index", "index_select", "_unsafe_index")
def indexed_constants(known: Known, node: fx.Node) -> Tensor:
    """What is equal all along the indexed dimensions is so after it."""
    read, indexed = known[node.args[0]], _indexed(node)  # type: ignore[index]
    low, high = read.amin(indexed), read.amax(indexed)
    kept = torch.where(low == high, low, torch.nan)
    neighbours = indexed == list(range(indexed[0], indexed[0] + len(indexed)))
    place, new = (indexed[0] if neighbours else 0), len(shape(node)) - kept.dim()
    return kept.reshape(*kept.shape[:place], *(1,) * new, *kept.shape[place:])


def _indexed(node: fx.Node) -> list[int]:
    if operator(node) == "index_select":
        return [int(argument(node, "dim")) % len(shape(node.args[0]))]  # type: ignore[arg-type]
    return [dim for dim, number in enumerate(node.args[1]) if number is not None]  # type: ignore[arg-type]


@flow("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sample(analysis: Analysis, node: fx.Node) -> Value:
    """Every channel is read at the same places of the grid."""
    value, grid = value_of(analysis, node.args[0]), value_of(analysis, node.args[1])
    analysis.freeze((*value[2:], *grid), f"places are looked up in {source(node)}")
    return (value[0], value[1], *(None,) * (len(value) - 2))


@constants("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sampled(known: Known, node: fx.Node) -> Tensor:
    """Zero where it reads zeros only, whatever is put beyond the borders."""
    read = known[node.args[0]]  # type: ignore[index]
    zero = (read == 0).flatten(2).all(2)
    return torch.where(zero, 0.0, torch.nan).double().reshape(*zero.shape, *(1,) * (read.dim() - 2))
