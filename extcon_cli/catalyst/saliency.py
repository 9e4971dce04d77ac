"""Compensated saliency: what is lost by removing a channel when the others are refitted to stand in for it.

A linear map y = W x reads channel j through its columns c. With C = cov(x), A = C^-1 and S = E[sum over positions of
g g^T], g the gradient of the loss at y, removing j and refitting the other columns by least squares costs, to second
order (the optimal brain surgeon's formula, a channel at a time),

    e_j = tr(S W_c A_cc^-1 W_c^T),   then   W <- W - W_c A_cc^-1 A_c:,   A <- A - A_:c A_cc^-1 A_c:.

The cheapest goes, and so on to the last: an order, and a curve e(k) of the loss against the channels removed, for each
group. Channels that several maps read cost the sum. S is that of the Fisher information if the labels are drawn from
the model's own outputs. Nothing here decides; no weight changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from extcon_cli.catalyst.filters import Filters, norms
from extcon_cli.catalyst.fisher import Fisher
from extcon_cli.catalyst.least_squares import NormalEquations
from extcon_cli.channels import Channels
from extcon_cli.channels.compare import Inputs, batch_size
from extcon_cli.channels.deferred import dense, is_deferred
from extcon_cli.channels.maps import StoredMap, sample_positions
from extcon_cli.channels.modules import evaluating, named_tensors
from extcon_cli.channels.preserving import preserving
from extcon_cli.channels.replay import SideBySide

WIDEST = 1152  # columns of one covariance; more are treated as independent blocks
COARSE = 256  # the same, and rows of a sketch of S, of a module whose weights are read when they are used
MOST_OUTPUTS = 4096  # of a map whose S is held as a whole
POSITIONS = 1 << 13  # of one map and one batch
DAMPING = 1e-3  # of each entry of C's diagonal, added to it: no unit counts

Compare = Literal["shares", "losses"]


@dataclass
class Block:
    """Columns of one map that are refitted together, and what is known of them."""

    filters: Tensor  # (b,) that the first b * taps columns belong to
    taps: int
    columns: Tensor  # (n,) of the map's matrix
    equations: NormalEquations = field(default_factory=NormalEquations)
    weight: Tensor | None = None  # (r, n) R W, with R^T R = S
    inverse: Tensor | None = None  # (n, n) A


@dataclass
class _Reader:
    """One group of a map: its part of the matrix, the S of its outputs, and its blocks."""

    matrix: Tensor  # (o, columns), float64 on the CPU; it may be deferred
    blocks: list[Block]
    fisher: Fisher


def compensated(
    module: nn.Module,
    channels: Channels,
    filters: Filters,
    batches: Iterable[Inputs],
    loss: Callable[[Sequence[Tensor]], Tensor],
    *,
    compare: Compare = "shares",
    after_group: Callable[[], None] = lambda: None,
) -> Tensor:
    """The marginal costs of every filter: (n,), float64. Removing them smallest first follows each group's order.

    The curve of a group is (e(k) / e(all))^2, which compares groups by shares, or e(k) itself; the marginal costs are
    the slopes of its lower convex hull. A group that no linear map reads, or no gradient reaches, goes by ||F|| along a
    straight line, to the same end as the others' mean.

    Args:
        module: in any mode; not changed. It runs in eval mode.
        batches: arguments of forward passes, some hundred samples in all, of which one at a time is in memory.
        loss: of all tensors that the model gives, a sum over samples; `drawn_labels` of those that are logits.
        compare: what tells groups apart: `shares` where much of many groups goes; `losses` where little is lost, and
            groups differ by orders of magnitude in what that is.
        after_group: called when the order of a group is known, which takes seconds where it is wide.

    Raises:
        TraceError: the forward pass cannot be traced on these inputs.
    """
    readers = _measure(module, channels, filters, batches, loss)
    curves: list[tuple[Tensor, Tensor]] = []  # the order of each group, and e(1) .. e(m); all 0: nothing is known
    sizes = norms(module, filters).cpu()
    for span in filters.spans():
        blocks = [block for reader in readers for block in _prepared(reader, span)]
        members = range(span.start, span.stop)
        order, costs = eliminate(blocks, members)
        curves.append((order if costs[-1] > 0 else sizes[span].argsort(stable=True) + span.start, costs))
        for block in blocks:
            block.weight = block.inverse = None
        after_group()
    return _compared(curves, len(filters), compare)


def drawn_labels(logits: Tensor, generator: torch.Generator, *, dim: int = 1, temperature: float = 4.0) -> Tensor:
    """sum of CE(z / T, y) with labels y drawn from softmax(z / T): its gradients make the Fisher information."""
    rows = (logits.float() / temperature).movedim(dim, -1).flatten(0, -2)
    drawn = torch.multinomial(rows.detach().softmax(1).cpu(), 1, generator=generator).flatten()
    return F.cross_entropy(rows, drawn.to(rows.device), reduction="sum")


def classes_dim(inputs: Inputs, logits: Tensor) -> int:
    """Along which dimension logits hold classes: the last if every token id that was read has some, else 1."""
    ids = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and not leaf.is_floating_point()]
    return -1 if logits.dim() == 3 and any(leaf.shape == logits.shape[:2] for leaf in ids) else 1


def usual_comparison(classes: int | None) -> Compare:
    """What tells groups apart where nobody says: the losses of language models, whose classes come last (-1)."""
    return "losses" if classes == -1 else "shares"


def drawn_noise(values: Tensor, generator: torch.Generator) -> Tensor:
    """<z, r> with r from N(0, 1): the same for outputs that are the means of Gaussians."""
    return (values.float() * torch.randn(values.shape, generator=generator).to(values.device)).sum()


def _measure(
    module: nn.Module,
    channels: Channels,
    filters: Filters,
    batches: Iterable[Inputs],
    loss: Callable[[Sequence[Tensor]], Tensor],
) -> list[_Reader]:
    """C and S of every map that reads filters that may go."""
    owners, tensors, coarse = filters.owners(channels), named_tensors(module), is_deferred(module)
    readers: dict[str, list[_Reader]] = {}
    samples = 0
    with preserving(module), evaluating(module), torch.enable_grad():
        for inputs in batches:
            samples += batch_size(inputs)
            passing = SideBySide((module,), (inputs,))
            outputs: dict[StoredMap, Tensor] = {}
            leaves: Sequence[Tensor] = ()
            for node in passing:
                found = StoredMap.of(passing.graph, node) if node.op == "call_function" else None
                if node.op == "output":
                    leaves = passing.values(node)[0][0]
                elif found is not None and not found.depthwise:  # a depthwise filter goes with its channel
                    if found.weight not in readers:
                        weight = tensors[found.weight]
                        readers[found.weight] = _readers(found, weight, channels, filters, owners, coarse=coarse)
                    if readers[found.weight]:
                        outputs[found] = passing.tap(node)
                        _add_inputs(found, readers[found.weight], passing.values(found.input)[0][0], outputs[found])
            if not outputs:
                continue
            gradients = torch.autograd.grad(loss(leaves), list(outputs.values()), allow_unused=True)
            for found, gradient in zip(outputs, gradients, strict=True):
                if gradient is not None:
                    _add_gradients(found, readers[found.weight], gradient)
    every = [reader for found in readers.values() for reader in found if reader.fisher.reached]
    for reader in every:
        reader.fisher.samples = samples
    return every


def _readers(
    found: StoredMap, weight: Tensor, channels: Channels, filters: Filters, owners: Tensor, *, coarse: bool
) -> list[_Reader]:
    """The groups of a map, each with its columns in blocks; none where it reads no filter that may go."""
    dim = 1 - found.output_dim
    owner = owners[torch.from_numpy(channels.channel_ids[channels.analysis.dims[found.weight, dim]])]
    owner = owner.reshape(found.groups, -1) if dim == 0 else owner.expand(found.groups, -1)
    made = []
    for part, own in zip(found.matrix(weight.detach()).double().cpu(), owner, strict=True):
        columns = own.repeat_interleave(found.taps)
        widest, rows = (COARSE, COARSE) if coarse else (WIDEST, WIDEST if len(part) > MOST_OUTPUTS else len(part))
        blocks = [block for span in filters.spans() for block in _blocks(columns, span, widest)]
        made.append(_Reader(part, blocks, Fisher(rows if rows < len(part) else None)))
    return made if any(reader.blocks for reader in made) else []


def _blocks(columns: Tensor, span: slice, widest: int) -> list[Block]:
    """The filters of one group among the columns' owners, as many a block as are refitted together."""
    held = {one: (columns == one).nonzero().flatten() for one in range(span.start, span.stop)}
    blocks = []
    for taps in sorted({len(places) for places in held.values()} - {0}):
        same = [one for one, places in held.items() if len(places) == taps]
        most = max(1, widest // taps)
        for some in (same[start : start + most] for start in range(0, len(same), most)):
            blocks.append(Block(torch.tensor(some), taps, torch.cat([held[one] for one in some])))
    return blocks


@torch.no_grad()
def _add_inputs(found: StoredMap, readers: list[_Reader], x: Tensor, y: Tensor) -> None:
    """What the map reads at some of its positions."""
    count = found.positions(y)
    for _, rows in found.rows(x.detach(), sample_positions(count, POSITIONS / count, y.device)):
        for group, reader in enumerate(readers):
            for block in reader.blocks:
                block.equations.add(rows[:, group : group + 1, block.columns.to(rows.device)])


def _add_gradients(found: StoredMap, readers: list[_Reader], gradient: Tensor) -> None:
    """g g^T of every position."""
    every = torch.arange(found.positions(gradient), device=gradient.device)
    g = found.outputs(gradient, every).reshape(len(every), found.groups, -1).transpose(0, 1)
    for reader, each in zip(readers, g, strict=True):
        reader.fisher.add(each)


def _within(block: Block, span: slice) -> bool:
    return bool(span.start <= int(block.filters[0]) < span.stop)


def _compared(curves: Sequence[tuple[Tensor, Tensor]], count: int, compare: Compare) -> Tensor:
    """The marginal costs of all groups: (count,)."""
    ends = [float(costs[-1]) for _, costs in curves if costs[-1] > 0]
    usual = sum(ends) / len(ends) if ends else 1.0
    scores = torch.zeros(count, dtype=torch.float64)
    for order, costs in curves:
        spent = costs if costs[-1] > 0 else usual * torch.arange(1, len(costs) + 1, dtype=torch.float64) / len(costs)
        scores[order] = marginal_costs((spent / spent[-1]).square() if compare == "shares" else spent)
    return scores


def _slope(curve: list[float], start: int, end: int) -> float:
    return (curve[end] - curve[start]) / (end - start)


def eliminate(blocks: list[Block], members: range) -> tuple[Tensor, Tensor]:
    """Remove all members one by one, the cheapest first: their order, and e(1) .. e(m). (m,) each."""
    alive = torch.ones(len(members), dtype=torch.bool)
    order, spent, total = [], [], 0.0
    places = [block.filters - members.start for block in blocks]
    known = [_costs(block, alive[place]) for block, place in zip(blocks, places, strict=True)]
    for _ in members:
        costs = torch.zeros(len(members), dtype=torch.float64)
        for place, cost in zip(places, known, strict=True):
            costs.index_add_(0, place, cost)
        chosen = int(torch.where(alive, costs, torch.inf).argmin())
        alive[chosen] = False
        total += max(0.0, float(costs[chosen]))
        order.append(members.start + chosen)
        spent.append(total)
        for number, (block, place) in enumerate(zip(blocks, places, strict=True)):
            if bool((place == chosen).any()):
                _remove(block, members.start + chosen)
                known[number] = _costs(block, alive[place])
    return torch.tensor(order), torch.tensor(spent, dtype=torch.float64)


def marginal_costs(curve: Tensor) -> Tensor:
    """Slopes of the lower convex hull of a curve c(1) .. c(m) that begins at 0; never falling, a hair apart: (m,)."""
    heights = [0.0, *curve.tolist()]
    hull = [0]
    for step in range(1, len(heights)):
        while len(hull) > 1 and _slope(heights, hull[-2], hull[-1]) >= _slope(heights, hull[-1], step):
            hull.pop()
        hull.append(step)
    slopes = [_slope(heights, a, b) for a, b in pairwise(hull) for _ in range(b - a)]
    return torch.tensor(slopes, dtype=torch.float64) * (1 + 1e-9 * torch.arange(len(slopes), dtype=torch.float64))


def _prepared(reader: _Reader, span: slice) -> list[Block]:
    """The blocks of one group, each with R W and A."""
    blocks = [block for block in reader.blocks if _within(block, span)]
    matrix, root = (dense(reader.matrix), reader.fisher.root()) if blocks else (reader.matrix, reader.matrix)
    for block in blocks:
        block.weight, block.inverse = root @ matrix[:, block.columns], _inverse(block)
    return blocks


def _inverse(block: Block) -> Tensor:
    """A of a block, whose sums are forgotten."""
    covariance = block.equations.covariance()[0].cpu()
    block.equations = NormalEquations()  # they are not asked for again
    own = covariance.diagonal()
    own.add_(DAMPING * own.clamp_min(1e-6 * own.mean()).clamp_min(1e-30))
    inverse: Tensor = torch.linalg.inv(covariance)
    return inverse


def _costs(block: Block, alive: Tensor) -> Tensor:
    """e_j of each filter of a block, 0 for those that are gone: (b,)."""
    assert block.weight is not None
    assert block.inverse is not None
    count, taps = len(block.filters), block.taps
    if taps == 1:  # nothing to solve
        return torch.where(alive, block.weight.square().sum(0) / block.inverse.diagonal(), 0.0)
    columns = torch.arange(count * taps).reshape(count, taps)[alive]
    inner = block.inverse[columns[:, :, None], columns[:, None, :]]  # (alive, t, t)
    weights = block.weight[:, columns].transpose(0, 1)  # (alive, o, t)
    found = torch.zeros(count, dtype=torch.float64)
    found[alive] = (torch.linalg.solve(inner, weights.transpose(1, 2)) * weights.transpose(1, 2)).sum((1, 2))
    return found


def _remove(block: Block, chosen: int) -> None:
    """Refit the other columns of the filter's block, and downdate A."""
    place = (block.filters == chosen).nonzero().flatten()
    assert block.weight is not None
    assert block.inverse is not None
    taps = block.taps
    columns = torch.arange(int(place) * taps, (int(place) + 1) * taps)
    rows = block.inverse[columns]  # (t, n)
    moved = torch.linalg.solve(rows[:, columns], rows)
    block.weight -= block.weight[:, columns] @ moved
    block.inverse -= rows.T @ moved
