"""How far a strategy has gone from where it started: the record behind Fig. 3 to 5 of the bypass paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from extcon_cli.bypass.strategies.base import State, Strategy

POINTS = 200
"""Rows of a trace, about."""


class TraceRow(NamedTuple):
    """Where all parameters are after a step, D among them; distance and angle are those to where they started."""

    step: int
    norm: float  # ||D||
    constraint: float  # ||A D W||
    distance: float
    angle: float  # degrees, seen from the origin
    step_size: float  # ||omega_(t+1) - omega_t||


class Trace:
    """Rows of a strategy over `total` steps."""

    def __init__(self, strategy: Strategy, total: int) -> None:
        self.strategy, self.total = strategy, total
        self.rows: list[TraceRow] = []
        self.last: list[Tensor] | None = None
        self._follow()

    @torch.no_grad()
    def note(self, index: int) -> None:
        """After step `index`, of 0 .. total - 1."""
        if self.strategy.module is not self.module:
            self._follow()
        if self._due(index):
            distance, angle = _apart(self.parameters, self.start)
            size = _apart(self.parameters, self.last)[0] if self.last is not None else math.nan
            self.rows.append(TraceRow(index + 1, *self.strategy.norms(), distance, angle, size))
        self.last = _copy(self.parameters) if self._due(index + 1) else None

    def state_dict(self) -> State:
        """What a resumed trace needs."""
        return {"rows": [list(row) for row in self.rows], "last": self.last}

    def load_state_dict(self, state: State) -> None:
        """Go on where another one stopped, once the strategy has its state."""
        if self.strategy.module is not self.module:
            self._follow()
        self.rows, self.last = [TraceRow(*row) for row in state["rows"]], state["last"]

    def _follow(self) -> None:
        """Measure what is trained now from where it started."""
        self.module: nn.Module = self.strategy.module
        self.parameters = list(self.module.parameters())
        self.start = _copy(self.strategy.origin().parameters())
        self.last = _copy(self.parameters)

    def _due(self, index: int) -> bool:
        return index % max(1, self.total // POINTS) == 0 or index + 1 == self.total


def _copy(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _apart(new: Sequence[Tensor], old: Sequence[Tensor]) -> tuple[float, float]:
    """||new - old||, and the angle between the two in degrees, exact for small ones as well."""
    moved = torch.cat([(p - q).flatten() for p, q in zip(new, old, strict=True)]).double()
    whence = torch.cat([q.flatten() for q in old]).double()
    size = whence.norm().clamp_min(1e-300)
    along = moved @ whence / size
    across = (moved - along * whence / size).norm()
    return float(moved.norm()), float(torch.rad2deg(torch.atan2(across, size + along)))
