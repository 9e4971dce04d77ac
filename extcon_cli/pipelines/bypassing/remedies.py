"""What holds a model back, and what a diagnosis prescribes: two or three ways out, by evidence. Measures nothing.

Extensions are chosen by the probe. New starts (restarts, identity) are not probed: what they lose at first they win
back over a whole run, and a few steps tell only the first.
"""

from __future__ import annotations

from collections.abc import Mapping

from extcon_cli.bypass.strategies import BASELINE, CONTROLS
from extcon_cli.report.results.bypass import Diagnosis, PlateauKind, ProbeGain

MOST = 3
"""Strategies that a run follows at most, beside going on and the controls, unless the recipe names them."""
TOO_SURE = 1.1
"""Temperature above which shrinking is worth trying: a model that needs none has no confidence to lose."""
DYING = 1e-3
"""Share of the signal, or of the gradient, under which nothing gets through a stack. Stuck nets of 30 layers have 1e-7
and 1e-12, new ones of 8 layers 2e-3 and 2e-2."""


def kind(found: Diagnosis, lowered: Mapping[str, ProbeGain], *, falling: bool, least_gain: float) -> PlateauKind:
    """What holds a model back, the surest sign first.

    Args:
        lowered: what the controls of the probe gain over theta*.
        falling: the training loss falls beyond its noise where training goes on.
        least_gain: share of the loss.
    """
    if found.depth is not None and min(found.depth.signal, found.depth.gradient) < DYING:
        return "dying stack"
    if found.mostly_dead:
        return "dead units"
    drift = found.drift
    if drift is None:
        return "plateau" if found.stalled else "still learning"
    worse = drift.gain < -2 * drift.error
    if falling and worse:
        return "overfitting"
    if any(row.gain >= max(least_gain, 2 * row.error) and row.gain > drift.gain for row in lowered.values()):
        return "rate too high"
    if worse:
        return "finished schedule"
    return "plateau" if found.stalled else "still learning"


def remedies(found: Diagnosis, starts: tuple[str, ...]) -> tuple[str, ...]:
    """The strategies that are worth a whole run, most promising first; none where no gain is to be expected.

    Args:
        starts: the new starts that are allowed.
    """
    promised = [name for name in by_gain(found) if name not in found.excluded] if found.predicted else []
    sure = found.temperature is None or found.temperature > TOO_SURE
    wanted: tuple[str, ...]
    match found.kind:
        case "dying stack":
            wanted = ("identity",)
        case "dead units":
            wanted = ()
        case "overfitting":
            wanted = ("shrink",) if sure else ()
        case _:
            wanted = ("restart", "shrink") if sure else ("restart",)
    begun = [name for name in wanted if name in starts]
    return (*promised[: MOST - len(begun)], *begun)


def by_gain(found: Diagnosis) -> list[str]:
    """The probed extensions, the one that gained most first."""
    names = [name for name in found.probe if name != BASELINE and name not in CONTROLS]
    return sorted(names, key=lambda name: -found.probe[name].gain)
