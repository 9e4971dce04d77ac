"""What a diagnosis prescribes: two or three ways out, by evidence. Measures nothing.

Extensions are chosen by the probe. Restarts are not probed: what they lose at first they win back over a whole run, and
a few steps tell only the first.
"""

from __future__ import annotations

from extcon_cli.bypass.strategies import BASELINE, CONTROLS
from extcon_cli.report.bypass_results import Diagnosis

MOST = 3
"""Strategies that a run follows at most, beside going on and the controls, unless the recipe names them."""

TOO_SURE = 1.1
"""Temperature above which shrinking is worth trying: a model that needs none has no confidence to lose."""


def remedies(found: Diagnosis, restarts: tuple[str, ...]) -> tuple[str, ...]:
    """The strategies that are worth a whole run, most promising first; none where no gain is to be expected.

    Args:
        restarts: those that are allowed.
    """
    promised = [name for name in by_gain(found) if name not in found.excluded] if found.predicted else []
    if found.mostly_dead:
        return tuple(promised[:MOST])
    worth = [name for name in restarts if name != "shrink" or found.temperature is None or found.temperature > TOO_SURE]
    return (*promised[: MOST - len(worth)], *worth)


def by_gain(found: Diagnosis) -> list[str]:
    """The probed extensions, the one that gained most first."""
    names = [name for name in found.probe if name != BASELINE and name not in CONTROLS]
    return sorted(names, key=lambda name: -found.probe[name].gain)
