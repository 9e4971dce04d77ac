"""Products of computed values: attention scores and what they weigh. Their batch dimensions carry channels: heads.

What is summed over stays, and the view that laid the channels out along it is asked for another layout
(`Analysis.summed`). A product with a stored matrix is a linear map: see linear.py.
"""

from __future__ import annotations

from string import ascii_letters

import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Analysis, Axis, Value, join_axes
from extcon_cli.channels.analysis.rules.linear import mapped, stored_matrix, times_stored
from extcon_cli.channels.analysis.rules.pointwise import easiest, tied
from extcon_cli.channels.analysis.rules.registry import Known, constants, flow, value_of
from extcon_cli.channels.analysis.trace import argument, holds_tensor, operator, shape, source

MATRIX_PRODUCTS = ("matmul", "bmm", "mm")


@flow(*MATRIX_PRODUCTS, "einsum")
def contract(analysis: Analysis, node: fx.Node) -> Value:
    """Dimensions of all factors meet; those of one factor pass; those that the result lacks are summed over."""
    if operator(node) != "einsum" and stored_matrix(analysis, node.args[1]) is not None:
        return times_stored(analysis, node)
    factors, terms, result = _equation(node)
    if factors is None:
        read = [axis for other in node.all_input_nodes for axis in value_of(analysis, other)]
        analysis.freeze(read, f"{operator(node)} is not followed in {source(node)}")
        return (None,) * len(shape(node))
    found: dict[str, Axis | None] = {}
    sizes = dict(zip(result, shape(node), strict=True))
    for letter in {letter: None for term in terms for letter in term}:
        meeting = [
            value_of(analysis, factor)[term.index(letter)]
            for factor, term in zip(factors, terms, strict=True)
            if letter in term and (letter not in sizes or shape(factor)[term.index(letter)] == sizes[letter])
        ]
        carrying = tied(analysis, node, meeting)
        everywhere = all(letter in term for term in terms)
        if carrying and (letter not in result or not everywhere):
            analysis.refused_views |= {axis.laid_out_by for axis in carrying if axis.laid_out_by is not None}
        if letter not in result:
            analysis.freeze(carrying, f"{operator(node)} sums over these channels in {source(node)}")
        found[letter] = easiest(carrying) if carrying else None
    return tuple(found[letter] for letter in result)


@flow("baddbmm")
def contract_and_add(analysis: Analysis, node: fx.Node) -> Value:
    """input + batch1 @ batch2."""
    read = [value_of(analysis, other) for other in node.args[:3]]
    added = [value[-1] for value in read] + [value[-2] for value in read if len(value) > 1]
    analysis.refused_views |= {axis.laid_out_by for axis in added if axis is not None and axis.laid_out_by is not None}
    analysis.freeze(added, f"baddbmm sums over these channels in {source(node)}")
    heads = tied(analysis, node, [value[0] for value in read if len(value) == 3])
    return (join_axes(heads) if heads else None, None, None)


@flow("scaled_dot_product_attention")
def attention(analysis: Analysis, node: fx.Node) -> Value:
    """softmax(q k^T) v: heads are tied; a head is zero where its v is. The width of a head is summed over."""
    query, key, value = (value_of(analysis, node.args[position]) for position in range(3))
    mask = argument(node, "attn_mask")
    reason = f"attention sums over these channels in {source(node)}"
    inner = [axis for read in (query, key, value) for axis in read[-2:] if axis is not None]
    analysis.refused_views |= {axis.laid_out_by for axis in inner if axis.laid_out_by is not None}
    analysis.freeze([query[-1], key[-1], key[-2], value[-2]], reason)
    if mask is not None:
        analysis.freeze(value_of(analysis, mask)[-2:], reason)
    heads: list[Axis | None] = []
    for dim in range(len(value) - 2):
        axis, sizes = value[dim], [shape(node.args[position])[dim] for position in range(3)]  # type: ignore[arg-type]
        if sizes[0] > sizes[2] and axis is not None:  # each head of k and v serves a run of those of q
            axis = axis.take(torch.arange(sizes[2]).repeat_interleave(sizes[0] // sizes[2]).numpy())
            tied(analysis, node, [value[dim], key[dim]])
            meeting = [axis, query[dim]]
        else:
            meeting = [axis, key[dim], query[dim]]
        if mask is not None:
            back = dim - len(value)
            if -back <= len(shape(mask)) and shape(mask)[back] == shape(node)[dim] > 1:
                meeting.append(value_of(analysis, mask)[back])
        heads.append(axis if tied(analysis, node, meeting) else None)
    return (*heads, query[-2], value[-1])


@flow("softmax", "_softmax", "log_softmax", "_log_softmax", "softmin")
def normalised(analysis: Analysis, node: fx.Node) -> Value:
    """Shares along one dimension; along the others channels pass, but zeros do not stay zeros."""
    value = value_of(analysis, node.args[0])
    dim = int(argument(node, "dim")) % len(value)
    analysis.freeze([value[dim]], f"{operator(node)} shares out among these channels in {source(node)}")
    return tuple(None if axis is None or d == dim else axis.without_sources() for d, axis in enumerate(value))


@constants(*MATRIX_PRODUCTS, "einsum")
def product(known: Known, node: fx.Node) -> Tensor:
    """Zero where one factor is zero all along what is summed over; a linear map where the right factor is known."""
    if operator(node) != "einsum" and len(shape(node.args[1])) == 2 and not known[node.args[1]].isnan().any():  # type: ignore[arg-type,index]
        return mapped(known, node, node.args[0], node.args[1], None, written=1)
    factors, terms, result = _equation(node)
    zero = torch.zeros((1,) * len(shape(node)), dtype=torch.bool)
    for factor, term in zip(factors or (), terms, strict=False):
        kept = "".join(letter for letter in result if letter in term)
        alive = torch.einsum(f"{term}->{kept}", (known[factor] != 0).double())  # unknown counts as alive
        zero = zero | (alive == 0)[tuple(slice(None) if letter in kept else None for letter in result)]
    return torch.where(zero, 0.0, torch.full((), torch.nan, dtype=torch.float64))


@constants("scaled_dot_product_attention")
def attended(known: Known, node: fx.Node) -> Tensor:
    """Zero where v is zero for every token."""
    value = known[node.args[2]]  # type: ignore[index]
    zero = (value == 0).all(-2, keepdim=True)
    heads, served = shape(node)[-3] if len(shape(node)) > 2 else 1, zero.shape[-3] if zero.dim() > 2 else 1
    if 1 < served < heads:
        zero = zero.repeat_interleave(heads // served, -3)
    return torch.where(zero, 0.0, torch.full((), torch.nan, dtype=torch.float64))


def _equation(node: fx.Node) -> tuple[list[fx.Node] | None, list[str], str]:
    """The product as an einsum: its factors, their letters, and those of the result; None: it is not followed."""
    if operator(node) == "einsum":
        equation = str(node.args[0]).replace(" ", "")
        terms, _, result = equation.partition("->")
        factors = [factor for factor in node.args[1] if holds_tensor(factor)]  # type: ignore[union-attr]
        plain = "->" in equation and "." not in equation and all(len(set(t)) == len(t) for t in terms.split(","))
        return (factors if plain else None), terms.split(","), result  # type: ignore[return-value]
    first, second = node.args[0], node.args[1]
    ranks = (len(shape(first)), len(shape(second)))  # type: ignore[arg-type]
    batch = ascii_letters[: max(0, max(ranks) - 2)]
    left = (batch[max(0, len(batch) - ranks[0] + 2) :] if ranks[0] > 2 else "") + ("YZ" if ranks[0] > 1 else "Z")
    right = (batch[max(0, len(batch) - ranks[1] + 2) :] if ranks[1] > 2 else "") + ("ZX" if ranks[1] > 1 else "Z")
    result = batch + ("Y" if ranks[0] > 1 else "") + ("X" if ranks[1] > 1 else "")
    return [first, second], [left, right], result  # type: ignore[list-item]
