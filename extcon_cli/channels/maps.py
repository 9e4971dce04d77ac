"""A linear map of the graph as a matrix: y = x W^T + b for each position, whatever its operator.

`rows` gives the x of every position (the patches of a convolution, 1 to 3 dimensions, grouped, transposed), `matrix`
its W, and `add_to` moves the stored weight. It fits nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from extcon_cli.channels.analysis.operator import Operator, holds_tensor, shape
from extcon_cli.channels.analysis.rules.linear import CONVOLUTIONS, TRANSPOSED, LinearMap
from extcon_cli.channels.analysis.trace import Graph

CHUNK = 1 << 22  # numbers of x that are laid out at once


@dataclass(frozen=True)
class StoredMap:
    """One call of a linear map whose weight is a parameter."""

    op: Operator
    weight: str
    bias: str | None
    input: fx.Node
    groups: int
    output_dim: int  # the weight's dimension of outputs
    depthwise: bool  # each channel by itself: a group for each, with its own taps as columns

    @classmethod
    def of(cls, graph: Graph, node: fx.Node) -> StoredMap | None:
        """The map that a node calls; None where it is none, or computes its weight."""
        op = Operator(node)
        if op.name not in ("linear", "addmm", "mm", "matmul", *CONVOLUTIONS) or not holds_tensor(node):
            return None
        if op.name == "addmm" and any(op.value(scale, 1) != 1 for scale in ("alpha", "beta")):
            return None
        found = LinearMap.of(op)
        weight, output_dim = found.weight, found.output_dim
        if weight.name not in graph.stored and op.name in ("addmm", "mm", "matmul"):
            turned = Operator(weight)
            if turned.name in ("t", "transpose", "permute", "numpy_T", "mT"):
                weight, output_dim = turned.input(0), 0
        name = graph.stored.get(weight.name)
        if name is None or len(shape(weight)) < 2 or found.input_dim == 0:
            return None
        bias = graph.stored.get(found.bias.name) if found.bias is not None else None
        return cls(op, name, bias, found.input, found.groups, output_dim, found.depthwise)

    @property
    def convolves(self) -> bool:
        return self.op.name in CONVOLUTIONS

    def matrix(self, weight: Tensor) -> Tensor:  # (groups, outputs, columns) of one group
        """The stored weight as the map applies it."""
        if not self.convolves:
            return (weight if self.output_dim == 0 else weight.T)[None]
        if self.op.name in TRANSPOSED:  # (inputs, outputs of a group, taps)
            parts = weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2)
            return parts.flip(list(range(3, parts.dim()))).flatten(2)
        return weight.reshape(self.groups, -1, *weight.shape[1:]).flatten(2)

    def add_to(self, weight: Tensor, change: Tensor) -> None:
        """Add a change (groups, outputs, columns) of the matrix to the stored weight."""
        if not self.convolves:
            weight.add_((change[0] if self.output_dim == 0 else change[0].T).to(weight))
        elif self.op.name in TRANSPOSED:
            inputs, outputs, *taps = weight.shape
            parts = change.reshape(self.groups, outputs, inputs // self.groups, *taps)
            parts = parts.flip(list(range(3, parts.dim()))).transpose(1, 2)
            weight.add_(parts.reshape(weight.shape).to(weight))
        else:
            weight.add_(change.reshape(weight.shape).to(weight))

    @property
    def taps(self) -> int:
        """Columns that each input has."""
        return math.prod(self.op.input(1).meta["val"].shape[2:]) if self.convolves else 1

    def outputs(self, y: Tensor, picked: Tensor) -> Tensor:  # (positions, outputs)
        """What the map gave at some of its positions."""
        if not self.convolves:
            return y.reshape(-1, y.shape[-1])[picked]
        return y.movedim(1, -1)[torch.unravel_index(picked, (y.shape[0], *y.shape[2:]))]

    def shaped(self, values: Tensor | float, y: Tensor) -> Tensor | float:
        """One value for each output (outputs,), so that it broadcasts to what the map gave."""
        return values.reshape(-1, *(1,) * (y.dim() - 2)) if self.convolves and isinstance(values, Tensor) else values

    def rows(self, x: Tensor, picked: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks of positions, and what the map reads at each of them: (positions, groups, columns)."""
        laid_out = self._windows(x) if self.convolves else x.reshape(-1, x.shape[-1])
        width = x.shape[1 if self.convolves else -1] * self.taps
        chunks: tuple[Tensor, ...] = torch.split(picked, max(1, CHUNK // width))
        for chunk in chunks:
            place = torch.unravel_index(chunk, laid_out.shape[: x.dim() - 1]) if self.convolves else (chunk,)
            yield chunk, laid_out[place].reshape(len(chunk), self.groups, -1)

    def positions(self, y: Tensor) -> int:
        """At how many positions the map is applied."""
        return y.numel() // y.shape[1 if self.convolves else -1]

    def _windows(self, x: Tensor) -> Tensor:
        """A view of the padded input: (N, positions..., inputs, taps...)."""
        rank = x.dim() - 2
        taps = self.op.input(1).meta["val"].shape[2:]
        stride, dilation = _each(self.op.value("stride", 1), rank), _each(self.op.value("dilation", 1), rank)
        reach = [dilation[d] * (taps[d] - 1) for d in range(rank)]
        if self.op.name in TRANSPOSED:  # a convolution over the inputs with zeros between them
            more = _each(self.op.value("output_padding", 0), rank)
            sides = [(reach[d] - pad, reach[d] - pad + more[d])
                     for d, pad in enumerate(_each(self.op.value("padding", 0), rank))]  # fmt: skip
            apart = x.new_zeros(*x.shape[:2], *((x.shape[2 + d] - 1) * stride[d] + 1 for d in range(rank)))
            spread = apart
            for d in range(rank):
                spread = spread.movedim(2 + d, 0)[:: stride[d]].movedim(0, 2 + d)
            spread.copy_(x)
            x, stride = apart, [1] * rank
        else:
            padding = self.op.value("padding", 0)
            if isinstance(padding, str):
                sides = [(r // 2, r - r // 2) if padding == "same" else (0, 0) for r in reach]
            else:
                sides = [(pad, pad) for pad in _each(padding, rank)]
        x = F.pad(x, [side for pair in reversed(sides) for side in pair])
        for d in range(rank):
            x = x.unfold(2 + d, reach[d] + 1, stride[d])[..., :: dilation[d]]
        return x.movedim(1, 1 + rank)


def sample_positions(positions: int, share: float, device: torch.device) -> Tensor:
    """A share of a batch's positions, or all of them: sorted numbers."""
    if share >= 1:
        return torch.arange(positions, device=device)
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(positions, generator=generator)[: max(1, int(share * positions))].sort().values.to(device)


def _each(value: object, rank: int) -> list[int]:
    """One number for each dimension of space."""
    values = [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(str(value))]
    return values * rank if len(values) == 1 else values
