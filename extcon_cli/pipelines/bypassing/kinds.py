"""What holds a model back, by the figures of a diagnosis: one kind of plateau, the surest sign first.

The thresholds were set on a labelled set of small nets (`benchmarks/diagnosis.py`). It measures nothing.
"""

from __future__ import annotations

from extcon_cli.bypass.strategies import WIDER
from extcon_cli.report.results.bypass import Depth, Diagnosis, Features, Fit, PlateauKind, ProbeGain

DYING = 1e-3
"""Share of the signal, or of the gradient, under which nothing gets through a stack. Stuck nets of 30 layers have 1e-7
and 1e-12, new ones of 8 layers 2e-3 and 2e-2."""
MOSTLY_DEAD = 0.5
"""Share of dead units that outweighs the slope and an unsure probe. A loss can fall by what few units are left, and a
gain of half the loss be within the error of a probe on a few dozen validation samples."""
CHANCE = 3.0
"""Standard errors under which outputs fit their own targets no better than others'."""
NARROW = 1.15
"""Validation loss, as a multiple of the training loss, up to which a model is held back by what it can express."""
REMEMBERED = 2.0
"""Validation loss, as a multiple of the training loss, from which on a model knows its training data by heart."""
BY_HEART = 4.0
"""The same, from which on it does whatever a few more steps gain."""
WIDER_GAIN = 0.05
"""Share of the loss that a wider copy gains over going on within the probe, where capacity is what is missing."""
READ_OUT = 0.145
"""Share of the loss that a read-out of random features gains beside a model, where capacity is what is missing."""
SPENT = 0.5
"""Share of their width that the features' effective rank takes, from which on a net has no directions left. One that
has only not learnt enough leaves much over for a read-out, too, but does not use its width."""


def kind(found: Diagnosis, least_gain: float) -> PlateauKind:
    """What holds a model back.

    Args:
        least_gain: share of the loss that counts as a gain.
    """
    if found.depth is not None and dying(found.depth):
        return "dying stack"
    if found.mostly_dead:
        return "dead units"
    if found.drift is None:
        return "plateau" if found.stalled else "still learning"
    if found.fit is not None and found.fit.informed is not None and found.fit.informed < CHANCE:
        return "data at fault"
    learns = _gains(found.learnt) if found.learnt is not None else found.slope.t >= 2
    if (learns and _loses(found.drift)) or (_apart(found.fit, REMEMBERED) and not _gains(found.drift)):
        return "overfitting"
    if _apart(found.fit, BY_HEART):
        return "overfitting"
    helped = [row.gain for row in (found.lowered, found.averaged) if row is not None and _gains(row)]
    if helped and max(helped) >= least_gain and max(helped) > found.drift.gain:
        return "rate too high"
    generalises = learns and _gains(found.drift)
    if generalises and found.drift.gain >= least_gain:
        return "still learning"
    if _bound(found):
        return "capacity-bound"
    if _loses(found.drift) or (found.learnt is not None and _loses(found.learnt)):
        return "finished schedule"
    return "still learning" if generalises else "plateau"


def dying(depth: Depth) -> bool:
    """Does nothing get through the stack?"""
    return min(depth.signal, depth.gradient) < DYING


def unexplained(found: Diagnosis, least_gain: float) -> bool:
    """Is it worth asking whether a wider copy does better?"""
    slow = found.drift is not None and found.drift.gain < least_gain
    return slow and found.kind in ("finished schedule", "plateau", "still learning") and _narrow(found.fit)


def _bound(found: Diagnosis) -> bool:
    wider, beside = found.probe.get(WIDER), found.read_out
    pulls_ahead = wider is not None and wider.gain >= max(WIDER_GAIN, 2 * wider.error)
    explains = beside is not None and beside.gain >= max(READ_OUT, 2 * beside.error) and _spent(found.features)
    return (pulls_ahead or explains) and _narrow(found.fit)


def _spent(features: Features | None) -> bool:
    return features is not None and features.effective >= SPENT * features.width


def _narrow(fit: Fit | None) -> bool:
    return fit is not None and fit.validation <= NARROW * fit.training


def _apart(fit: Fit | None, factor: float) -> bool:
    return fit is not None and fit.validation >= factor * fit.training


def _gains(gain: ProbeGain) -> bool:
    return gain.gain > 2 * gain.error


def _loses(gain: ProbeGain) -> bool:
    return gain.gain < -2 * gain.error
