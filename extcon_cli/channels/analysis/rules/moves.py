"""Operators that move, pick or repeat positions: channels go where their positions go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from extcon_cli.channels.analysis.axes import Axis, Index, SizedView, Value
from extcon_cli.channels.analysis.known import along, compact
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator, dtype, shape
from extcon_cli.channels.analysis.rules.registry import constants, flow

REPEATS = ("repeat", "tile", "repeat_interleave")
ORDERS = ("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "numpy_T", "mT", "expand", "expand_as")
MOVES = (*ORDERS, "slice", "select", "flip", "roll", "narrow", *REPEATS)


@flow(*MOVES)
def move(op: FlowOperator) -> Value:
    """Ask the operator itself: run it on the numbers of the positions along each dimension."""
    sizes = shape(op.input(0))
    result: list[Axis | None] = [None] * op.rank
    for dim, axis in enumerate(op.axes(0, free=op.name in ORDERS)):
        if axis is None or sizes[dim] == 1:
            continue
        numbers = _moved(op, along(torch.arange(sizes[dim]), dim, len(sizes)).expand(sizes))
        target = next((d for d in range(numbers.dim()) if numbers.shape[d] > 1 and _varies(numbers, d)), None)
        places = np.empty(0, np.int64)
        if target is not None:
            places = numbers[tuple(slice(None) if d == target else 0 for d in range(numbers.dim()))].numpy()
        if op.name in REPEATS and len(places):
            pass  # each position as often as any other, however many there are
        elif op.name == "slice":
            by_number(op, axis, places)
        elif len(places) != sizes[dim] or (op.name == "roll" and places[0] != 0):
            # the bounds stand in the model's code: after a removal they would pick other channels
            op.freeze([axis], f"{op.name} picks positions by number")
        if target is not None:
            result[target] = axis.take(places)
    if op.name == "expand":
        for back in range(-op.rank, 0):
            if (-back > len(sizes) or sizes[back] == 1) and op.shape[back] > 1:
                repeated = result[back] = Axis(op.analysis.new_positions(op.shape[back]), zero=False, free=True)
                op.analysis.sized_views.append(SizedView(op.node, repeated))
    if op.name == "expand_as":  # what is broadcast is as wide as the other, whatever goes
        for back, other in zip(range(-1, -op.rank - 1, -1), reversed(op.axes(1)), strict=True):
            if -back > len(sizes) or sizes[back] < op.shape[back]:
                result[back] = other and replace(other, sources=(), zero=False)
    return tuple(result)


def _moved(op: Operator, read: Tensor) -> Tensor:
    """The operator itself, run on another tensor of the same shape."""
    result: Tensor = read.expand(op.shape) if op.name == "expand_as" else op.run(read)
    return result


def _varies(numbers: Tensor, dim: int) -> bool:
    if numbers.stride(dim) == 0:  # one number repeated
        return False
    return bool((numbers.narrow(dim, 0, 1) != numbers.narrow(dim, 1, 1)).any())


def by_number(op: FlowOperator, axis: Axis, places: Index) -> None:
    """Places whose bounds stand in the model's code: one of several equal runs, of what is left too, or frozen."""
    length, size = len(places), len(axis.positions)
    if length and size % length == 0 and places[0] % length == 0 and places[-1] - places[0] < length:
        for block in axis.positions.reshape(-1, length):  # a half, a third
            op.analysis.tie(axis.positions[:length], block)
    else:
        op.freeze([axis], f"{op.name} picks positions by number")


@constants(*MOVES)
def moved(op: KnownOperator) -> Tensor:
    """Run the operator itself on what is known, in the full shape."""
    read = op.constant(0)
    if (read.numel() == 1 and bool(read.isnan())) or op.dtype != dtype(op.input(0)):
        return op.unknown()
    return compact(_moved(op, op.full(0)))
