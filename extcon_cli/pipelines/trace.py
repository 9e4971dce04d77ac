"""How far a way has gone from where it started: the record behind Fig. 3 to 5 of the bypass paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.training.loop import Step

POINTS = 200
"""Rows of a trace, about."""


class Trace:
    """Rows of [step, ||D||, ||A D W||, distance, angle, step size] over all parameters, D among them.

    Distance and angle (degrees, seen from the origin) are those to the parameters at the start; the step size is
    ||omega_(t+1) - omega_t||.

    Args:
        start: where the parameters were; None: where they are.
        rows: those of the steps before.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        start: Iterable[nn.Parameter] | None = None,
        rows: Iterable[list[float]] = (),
    ) -> None:
        self.parameters = list(parameters)
        self.last: list[Tensor] | None = _copy(self.parameters)
        self.start = self.last if start is None else _copy(start)
        self.rows = list(rows)

    def due(self, step: Step) -> bool:
        """Whether this step gets a row."""
        return _noted(step.index, step.total)

    @torch.no_grad()
    def note(self, step: Step, norm: float = 0.0, constraint: float = 0.0) -> None:
        """After each step; `norm` and `constraint` count where `due`."""
        if self.due(step):
            distance, angle = _apart(self.parameters, self.start)
            size = _apart(self.parameters, self.last)[0] if self.last is not None else math.nan
            self.rows.append([step.index + 1, norm, constraint, distance, angle, size])
        self.last = _copy(self.parameters) if _noted(step.index + 1, step.total) else None

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows, self.last = list(state["rows"]), state["last"]


def _copy(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _noted(index: int, total: int) -> bool:
    return index % max(1, total // POINTS) == 0 or index + 1 == total


def _apart(new: Sequence[Tensor], old: Sequence[Tensor]) -> tuple[float, float]:
    """||new - old||, and the angle between the two in degrees, exact for small ones as well."""
    moved = torch.cat([(p - q).flatten() for p, q in zip(new, old, strict=True)]).double()
    whence = torch.cat([q.flatten() for q in old]).double()
    size = whence.norm().clamp_min(1e-300)
    along = moved @ whence / size
    across = (moved - along * whence / size).norm()
    return float(moved.norm()), float(torch.rad2deg(torch.atan2(across, size + along)))
