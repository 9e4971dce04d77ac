"""The loss of a model whose logits were divided by one temperature, fitted on the same data (Guo et al. 2017).

Raw loss prefers the less confident of two models, not the better one. It trains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from extcon_cli.channels.modules import evaluating
from extcon_cli.tasks import Batch, Task

LEAST, MOST = 0.5, 10.0
"""Of the temperature. Where every sample is right, none is too low."""
HELD = 20_000_000
"""Outputs at most, as numbers, that the temperature is fitted on; they are held in memory."""
PRECISION = 1e-3
"""Of the temperature, relative."""

Outputs = Sequence[tuple[Any, Any]]
"""Outputs and targets of batches."""


@dataclass(frozen=True)
class Calibration:
    """The temperature of the least loss, and that loss over all samples."""

    temperature: float
    loss: float


@torch.no_grad()
def calibrate(module: nn.Module, batches: Callable[[], Iterable[Batch]], task: Task) -> Calibration | None:
    """Fit the temperature, and measure. None: the task's outputs are no logits.

    Args:
        batches: the same ones, in order, at each call.
    """
    if not task.logits:
        return None
    held, numbers, complete = [], 0, True
    with evaluating(module):
        for batch in batches():
            if numbers >= HELD:
                complete = False
                break
            outputs = task.forward(module, batch)
            held.append((outputs, batch[1]))
            numbers += outputs.numel()
        temperature = fitted(held, task)
        if complete:
            return Calibration(temperature, _loss(held, task, temperature))
        everything = ((task.forward(module, batch), batch[1]) for batch in batches())
        return Calibration(temperature, _loss(everything, task, temperature))


def fitted(held: Outputs, task: Task) -> float:
    """The temperature of the least loss of these outputs: by golden sections, as the loss has one valley."""
    share = (math.sqrt(5) - 1) / 2
    low, high = math.log(LEAST), math.log(MOST)

    def loss(place: float) -> float:
        return _loss(held, task, math.exp(place))

    inner = [high - share * (high - low), low + share * (high - low)]
    losses = [loss(place) for place in inner]
    while high - low > PRECISION:
        if losses[0] <= losses[1]:
            high, inner[1], losses[1] = inner[1], inner[0], losses[0]
            inner[0] = high - share * (high - low)
            losses[0] = loss(inner[0])
        else:
            low, inner[0], losses[0] = inner[0], inner[1], losses[1]
            inner[1] = low + share * (high - low)
            losses[1] = loss(inner[1])
    return math.exp((low + high) / 2)


def _loss(outputs: Iterable[tuple[Any, Any]], task: Task, temperature: float) -> float:
    """The mean over whatever the task counts."""
    total, count = 0.0, 0.0
    for given, targets in outputs:
        number = task.count(targets)
        if number:  # else the loss is 0 / 0
            total += float(task.loss(given / temperature, targets)) * number
            count += number
    return total / count
