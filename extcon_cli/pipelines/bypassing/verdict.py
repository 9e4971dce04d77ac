"""What a diagnosis says in plain words: a small table of signs, and one sentence. Measures and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping

from extcon_cli.bypass.strategies import BASELINE, CONTROLS
from extcon_cli.pipelines.bypassing.remedies import TOO_SURE
from extcon_cli.report.numbers import percent
from extcon_cli.report.results.bypass import DeadUnits, Diagnosis, PlateauKind, ProbeGain, Sign


def signs(found: Diagnosis, *, falling: bool) -> tuple[Sign, ...]:
    """Each sign with what was found and what that says; `falling`: the loss still falls where training goes on."""
    slope = f"falls {percent(found.slope.relative)} in 1000 steps (t {found.slope.t:.1f})"
    rows = [Sign("the loss, going on", slope, "it still falls" if falling else "it has stopped falling")]
    if found.dead:
        dead, nearly, units = counts(found.dead)
        said = "stalled: so many outweigh all else" if found.mostly_dead else "few" if dead or nearly else "none"
        rows.append(Sign("units", f"{dead} of {units} units are dead, {nearly} nearly", said))
    gradient = f"norm {found.gradient.norm:.2g}, {percent(found.gradient.of_weights)} of the weights'"
    rows.append(Sign("the gradient", gradient, "alone no sign"))
    if found.depth is not None:
        depth = f"{found.depth.layers} layers: signal {found.depth.signal:.1e}, gradient {found.depth.gradient:.1e}"
        rows.append(Sign("the deep stack", depth, "dying" if found.kind == "dying stack" else "both get through"))
    if found.drift is not None:
        drift = f"{percent(-found.drift.gain)} +- {percent(found.drift.error)}"
        rows.append(Sign("validation, going on", drift, _drifts(found.drift)))
    if found.temperature is not None:
        rows.append(Sign("temperature", f"{found.temperature:.2f}", _confidence(found.temperature)))
    for name, row in found.probe.items():
        if name != BASELINE:
            of = "control" if name in CONTROLS else "probe"
            rows.append(Sign(f"{of}: {name}", f"{percent(row.gain)} +- {percent(row.error)}", _said(row)))
    rows += [Sign(f"probe: {name}", "-", f"not possible: {why}") for name, why in found.refused.items()]
    return tuple(rows)


MEANINGS: Mapping[PlateauKind, str] = {
    "dying stack": "neither signal nor gradient gets through its layers: start them near the identity",
    "overfitting": "overfitting: the validation loss rises while the training loss falls. Bypassing is not the remedy; "
    "more data, augmentation or weight decay are",
    "rate too high": "the rate is too high: a lowered one helps at once, and so does averaging",
    "finished schedule": "its schedule has come to an end: going on at this rate undoes it; restart",
    "still learning": "it still learns: going on helps, and a restart may help more",
}
"""What each kind of plateau means, beside dead units and an ordinary one."""


def sentence(found: Diagnosis, *, falling: bool, surely: bool) -> str:
    """Is it stalled, by what, and what is to be expected; `surely`: the probe alone predicts the gain."""
    told = MEANINGS.get(found.kind) if found.drift is not None else None
    return _expected(found, falling, surely) + (f"; {told}" if told is not None else "")


def _expected(found: Diagnosis, falling: bool, surely: bool) -> str:
    dead, _, units = counts(found.dead)
    fall = f"the loss falls {percent(found.slope.relative)} in 1000 steps"
    if found.mostly_dead:
        state = f"stalled: {dead} of {units} units are dead"
    else:
        state = f"not stalled: {fall}" if falling else f"stalled: {fall} (t {found.slope.t:.1f})"
    if found.probed == BASELINE:
        return f"{state}; no extension was probed"
    best = f"{found.probed} {percent(found.gain)} +- {percent(found.gain_error)}"
    if surely:
        return f"{state}, and the probe predicts a gain ({best} over going on)"
    if found.predicted:
        return f"{state}, so a gain is to be expected, which the probe is too noisy to show ({best} over going on)"
    longer = "; a longer probe or a higher learning rate may show one" if found.kind == "dead units" else ""
    return f"{state}, and the probe predicts no gain of an extension (the most: {best} over going on){longer}"


def counts(dead: Mapping[str, DeadUnits]) -> tuple[int, int, int]:
    """Dead units, nearly dead ones, and all."""
    rows = dead.values()
    return sum(row.dead for row in rows), sum(row.nearly for row in rows), sum(row.units for row in rows)


def _drifts(drift: ProbeGain) -> str:
    if abs(drift.gain) <= 2 * drift.error:
        return "within its error"
    return "falls" if drift.gain > 0 else "rises"


def _confidence(temperature: float) -> str:
    return "too sure of its answers" if temperature > TOO_SURE else "not sure enough" if temperature < 0.9 else "fits"


def _said(row: ProbeGain) -> str:
    if abs(row.gain) <= 2 * row.error:
        return "within its error"
    return "gains" if row.gain > 0 else "loses"
