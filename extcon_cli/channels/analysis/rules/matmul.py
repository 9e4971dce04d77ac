"""Products of computed values: attention scores and what they weigh. Their batch dimensions carry channels: heads.

What is summed over stays where both factors depend on the model's inputs, and the view that laid the channels out along
it is asked for another layout (`Analysis.refused_views`). Where one factor is made of weights alone (stacked experts),
the product reads the other's channels as a linear map does. With a stored matrix it is one: see linear.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_letters

import torch
from torch import Tensor, fx

from extcon_cli.channels.analysis.axes import Axis, Value, join_axes
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, dtype, holds_tensor, shape
from extcon_cli.channels.analysis.rules.linear import linear_output, stored_matrix, times_stored
from extcon_cli.channels.analysis.rules.pointwise import easiest, tie_all
from extcon_cli.channels.analysis.rules.registry import constants, flow

MATRIX_PRODUCTS = ("matmul", "bmm", "mm", "mv", "dot", "vdot")


@dataclass(frozen=True)
class Einsum:
    """A product as an einsum: a term of letters for each factor, and the letters of the result."""

    factors: tuple[fx.Node, ...]
    terms: tuple[str, ...]
    result: str

    @classmethod
    def of(cls, op: Operator) -> Einsum | None:
        """None: the equation has an ellipsis, a diagonal or no result."""
        if op.name != "einsum":
            return cls._matrix_product(op.input(0), op.input(1))
        equation = str(op.value(0)).replace(" ", "")
        terms, arrow, result = equation.partition("->")
        if not arrow or "." in equation or any(len(set(term)) < len(term) for term in terms.split(",")):
            return None
        factors = tuple(factor for factor in op.inputs(1) if holds_tensor(factor))
        return cls(factors, tuple(terms.split(",")), result)

    @classmethod
    def _matrix_product(cls, first: fx.Node, second: fx.Node) -> Einsum:
        """(batch, Y, Z) times (batch, Z, X), with as many of these as the factors have."""
        ranks = (len(shape(first)), len(shape(second)))
        batch = ascii_letters[: max(0, max(ranks) - 2)]
        left = (batch[max(0, len(batch) - ranks[0] + 2) :] if ranks[0] > 2 else "") + ("YZ" if ranks[0] > 1 else "Z")
        right = (batch[max(0, len(batch) - ranks[1] + 2) :] if ranks[1] > 2 else "") + ("ZX" if ranks[1] > 1 else "Z")
        result = batch + ("Y" if ranks[0] > 1 else "") + ("X" if ranks[1] > 1 else "")
        return cls((first, second), (left, right), result)

    def places(self, letter: str) -> list[tuple[fx.Node, int]]:
        """The factors that have a dimension of this letter, and which."""
        pairs = zip(self.factors, self.terms, strict=True)
        return [(factor, term.index(letter)) for factor, term in pairs if letter in term]


@flow(*MATRIX_PRODUCTS, "einsum")
def contract(op: FlowOperator) -> Value:
    """Dimensions of all factors meet; those of one factor pass; those that the result lacks are summed over."""
    if op.name != "einsum" and stored_matrix(op.analysis, op.input(1)) is not None:
        return times_stored(op)
    product = Einsum.of(op)
    if product is None:
        op.freeze((axis for read in op.tensors for axis in op.axes_of(read)), f"{op.name} is not followed")
        return (None,) * op.rank
    found = {letter: _meet(op, product, letter) for letter in dict.fromkeys("".join(product.terms))}
    return tuple(found[letter] for letter in product.result)


def _meet(op: FlowOperator, product: Einsum, letter: str) -> Axis | None:
    """The channels along one letter of a product; None where it is summed over."""
    places = product.places(letter)
    if letter not in product.result:
        _sum_over(op, places)
        return None
    size = op.shape[product.result.index(letter)]
    meeting = [(factor, dim) for factor, dim in places if shape(factor)[dim] == size]  # the others are broadcast
    carrying = tie_all(op, [op.axes_of(factor)[dim] for factor, dim in meeting])
    if not carrying:
        return None
    if len(places) < len(product.factors):
        op.ask_for_other_views(carrying)
    if op.analysis.computed.isdisjoint(factor for factor, _ in meeting):  # channels that stacked weights write
        op.analysis.produced.append(carrying[0].positions)
    return easiest(carrying)


def _sum_over(op: FlowOperator, factors: list[tuple[fx.Node, int]]) -> None:
    """Weights read the channels of the one factor that is no weight; two of them are not followed."""
    carrying = tie_all(op, [op.axes_of(factor)[dim] for factor, dim in factors])
    others = [place for place in factors if place[0] in op.analysis.computed]
    if len(others) > 1 or len(factors) < 2:
        op.refuse(carrying, f"{op.name} sums over these channels")
    elif len(carrying) == len(factors):
        op.read_zeros(*(others or factors)[0])


@flow("_grouped_mm", "grouped_mm_fallback")
def by_runs(op: FlowOperator) -> Value:
    """Rows (T, K) in runs, each run times the matrix of its expert (E, K, N): stacked weights, as in a product."""
    rows, weights = op.input(0), op.input(1)
    if (len(shape(rows)), len(shape(weights))) != (2, 3) or op.value("bias") is not None:
        op.freeze((axis for read in op.tensors for axis in op.axes_of(read)), f"{op.name} is not followed")
        return (None,) * op.rank
    op.refuse((op.axes(0)[0], op.axes(1)[0]), f"{op.name} shares rows out among experts")
    step = 16 // dtype(rows).itemsize  # torch's kernel takes rows of a multiple of 16 bytes
    op.analysis.in_steps += [(axis.positions, step) for axis in (*op.axes(0)[1:], *op.axes(1)[1:]) if axis is not None]
    _sum_over(op, [(rows, 1), (weights, 1)])
    written = op.axes(1)[2]
    if written is not None and weights not in op.analysis.computed:
        op.analysis.produced.append(written.positions)
    return (None, written)


@flow("baddbmm")
def contract_and_add(op: FlowOperator) -> Value:
    """input + batch1 @ batch2."""
    read = [op.axes(position) for position in range(3)]
    added = [value[-1] for value in read] + [value[-2] for value in read if len(value) > 1]
    op.refuse(added, "baddbmm sums over these channels")
    heads = tie_all(op, [op.axes(position, free=True)[0] for position in range(3) if len(read[position]) == 3])
    return (join_axes(heads) if heads else None, None, None)


@flow("scaled_dot_product_attention")
def attention(op: FlowOperator) -> Value:
    """softmax(q k^T) v: heads are tied; a head is zero where its v is. The width of a head is summed over."""
    query, key, value, mask = op.axes("query"), op.axes("key"), op.axes("value"), op.axes("attn_mask")
    reason = "attention sums over these channels"
    op.ask_for_other_views(axis for read in (query, key, value) for axis in read[-2:])
    op.freeze([query[-1], key[-1], key[-2], value[-2]], reason)
    op.freeze(mask[-2:], reason)
    heads = [_heads(op, dim) for dim in range(len(value) - 2)]
    return (*heads, query[-2], value[-1])


def _heads(op: FlowOperator, dim: int) -> Axis | None:
    """The channels along a dimension before the last two: those of v, tied to those of q, k and the mask."""
    query, key, value = op.axes("query")[dim], op.axes("key")[dim], op.axes("value")[dim]
    asking, answering = shape(op.input("query"))[dim], shape(op.input("value"))[dim]
    heads, meeting = value, [value, key, query]
    if asking > answering and value is not None:  # each head of k and v serves a run of those of q
        heads = value.take(torch.arange(answering).repeat_interleave(asking // answering).numpy())
        tie_all(op, [value, key])
        meeting = [heads, query]
    mask, back = op.optional_input("attn_mask"), dim - len(op.axes("value"))
    if mask is not None and -back <= len(shape(mask)) and shape(mask)[back] == op.shape[dim] > 1:
        meeting.append(op.axes("attn_mask", free=True)[back])
    return heads if tie_all(op, meeting) else None


@flow("softmax", "_softmax", "log_softmax", "_log_softmax", "softmin")
def normalised(op: FlowOperator) -> Value:
    """Shares along one dimension; along the others channels pass, but zeros do not stay zeros."""
    value = op.axes(0)
    dim = op.dim(len(value))
    op.freeze([value[dim]], f"{op.name} shares out among these channels")
    return tuple(None if d == dim else axis and axis.without_sources() for d, axis in enumerate(value))


@constants(*MATRIX_PRODUCTS, "einsum")
def product(op: KnownOperator) -> Tensor:
    """Zero where one factor is zero all along what is summed over; a linear map where the right factor is known."""
    if op.name != "einsum" and len(shape(op.input(1))) == 2 and not op.constant(1).isnan().any():
        return linear_output(op)
    einsum = Einsum.of(op)
    if einsum is None:
        return op.unknown()
    zero = torch.zeros((1,) * op.rank, dtype=torch.bool)
    for factor, term in zip(einsum.factors, einsum.terms, strict=True):
        kept = "".join(letter for letter in einsum.result if letter in term)
        alive = torch.einsum(f"{term}->{kept}", (op.constant_of(factor) != 0).double())  # unknown counts as alive
        zero = zero | (alive == 0)[tuple(slice(None) if letter in kept else None for letter in einsum.result)]
    return torch.where(zero, 0.0, torch.nan).double()


@constants("_grouped_mm", "grouped_mm_fallback")
def run_by_run(op: KnownOperator) -> Tensor:
    """Zero where no expert's matrix takes anything to it."""
    if (len(shape(op.input(0))), len(shape(op.input(1)))) != (2, 3) or op.value("bias") is not None:
        return op.unknown()
    alive = (op.full(0) != 0).any(0), (op.full(1) != 0)  # unknown counts as alive
    reached = torch.einsum("k,ekn->n", alive[0].double(), alive[1].double()) > 0
    return torch.where(reached, torch.nan, 0.0).double()[None]


@constants("scaled_dot_product_attention")
def attended(op: KnownOperator) -> Tensor:
    """Zero where v is zero for every token."""
    zero = (op.constant("value") == 0).all(-2, keepdim=True)
    heads, served = op.shape[-3] if op.rank > 2 else 1, zero.shape[-3] if zero.dim() > 2 else 1
    if 1 < served < heads:
        zero = zero.repeat_interleave(heads // served, -3)
    return torch.where(zero, 0.0, torch.nan).double()
