"""What a diagnosis prescribes: the ways out that are worth a whole run, by evidence. It measures nothing.

Extensions are chosen by the probe. New starts (restarts, identity) are not probed: what they lose at first they win
back over a whole run, and a few steps tell only the first.
"""

from __future__ import annotations

from extcon_cli.bypass.strategies import BASELINE, CONTROLS, WIDER
from extcon_cli.report.results.bypass import Diagnosis

MOST = 2
"""Strategies that a run follows at most, beside going on and the control, unless the recipe names them."""
TOO_SURE = 1.1
"""Temperature above which shrinking is worth trying: a model that needs none has no confidence to lose."""


def remedies(found: Diagnosis, starts: tuple[str, ...]) -> tuple[str, ...]:
    """The strategies that are worth a whole run, most promising first; none where no gain is to be expected.

    Args:
        starts: the new starts that are allowed.
    """
    promised = [name for name in by_gain(found) if name not in found.excluded] if found.predicted else []
    too_sure = found.temperature > TOO_SURE if found.temperature is not None else None
    wanted: tuple[str, ...]
    match found.kind:
        case "dying stack":
            wanted = ("identity",)
        case "dead units" | "data at fault":
            wanted = ()
        case "overfitting":
            wanted = ("shrink",) if too_sure else ()
        case _:
            wanted = ("restart", "shrink") if too_sure is None else ("shrink",) if too_sure else ("restart",)
    begun = [name for name in wanted if name in starts]
    return (*promised[: MOST - len(begun)], *begun)


def control(found: Diagnosis) -> str:
    """The stronger of the controls: a lowered rate where the rate is too high, else half a cosine."""
    return "lr_drop" if found.kind == "rate too high" else "cosine"


def by_gain(found: Diagnosis) -> list[str]:
    """The probed extensions, the one that gained most first."""
    names = [name for name in found.probe if name not in (BASELINE, WIDER, *CONTROLS)]
    return sorted(names, key=lambda name: -found.probe[name].gain)
