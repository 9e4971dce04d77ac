"""What a diagnosis says in plain words: a small table of signs, and one sentence. Measures and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping

from extcon_cli.bypass.strategies import BASELINE, CONTROLS
from extcon_cli.report.bypass_results import DeadUnits, Diagnosis, ProbeGain, Sign
from extcon_cli.report.numbers import percent


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
    for name, row in found.probe.items():
        if name != BASELINE:
            of = "control" if name in CONTROLS else "probe"
            rows.append(Sign(f"{of}: {name}", f"{percent(row.gain)} +- {percent(row.error)}", _said(row)))
    rows += [Sign(f"probe: {name}", "-", f"not possible: {why}") for name, why in found.refused.items()]
    return tuple(rows)


def sentence(found: Diagnosis, *, falling: bool, surely: bool) -> str:
    """Is it stalled, by what, and what is to be expected; `surely`: the probe alone predicts the gain."""
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
    longer = "; a longer probe or a higher learning rate may show one" if found.mostly_dead else ""
    return f"{state}, and the probe predicts no gain of an extension (the most: {best} over going on){longer}"


def counts(dead: Mapping[str, DeadUnits]) -> tuple[int, int, int]:
    """Dead units, nearly dead ones, and all."""
    rows = dead.values()
    return sum(row.dead for row in rows), sum(row.nearly for row in rows), sum(row.units for row in rows)


def _said(row: ProbeGain) -> str:
    if abs(row.gain) <= 2 * row.error:
        return "within its error"
    return "gains" if row.gain > 0 else "loses"
