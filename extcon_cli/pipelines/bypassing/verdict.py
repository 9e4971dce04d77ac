"""What a diagnosis says in plain words: a small table of signs, and one sentence. Measures and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping

from extcon_cli.bypass.strategies import BASELINE, CONTROLS, WIDER
from extcon_cli.pipelines.bypassing.kinds import CHANCE, DYING, NARROW
from extcon_cli.pipelines.bypassing.remedies import TOO_SURE
from extcon_cli.report.numbers import percent
from extcon_cli.report.results.bypass import DeadUnits, Depth, Diagnosis, Fit, ProbeGain, Sign


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
        rows.append(
            Sign("the deep stack", _reach(found.depth), "dying" if found.kind == "dying stack" else "both get through")
        )
    if found.features is not None:
        rank = f"effective rank {found.features.effective:.1f} of {found.features.width}"
        rows.append(Sign("the features", rank, "alone no sign"))
    if found.fit is not None:
        rows.append(Sign("the loss at theta*", _both(found.fit), _fits(found.fit)))
        if found.fit.informed is not None:
            ahead = f"own targets {found.fit.informed:.1f} errors ahead"
            rows.append(
                Sign("the answers", ahead, "chance" if found.fit.informed < CHANCE else "they tell targets apart")
            )
    changes = (
        ("training, going on", found.learnt),
        ("validation, going on", found.drift),
        ("validation, rate cut", found.lowered),
        ("validation, averaged", found.averaged),
    )
    rows += [Sign(name, _change(row), _drifts(row)) for name, row in changes if row is not None]
    if found.temperature is not None:
        rows.append(Sign("temperature", f"{found.temperature:.2f}", _confidence(found.temperature)))
    if found.read_out is not None:
        rows.append(
            Sign(
                "a read-out beside it",
                f"{percent(found.read_out.gain)} +- {percent(found.read_out.error)}",
                _said(found.read_out),
            )
        )
    for name, row in found.probe.items():
        if name != BASELINE:
            of = "control" if name in CONTROLS else "probe"
            rows.append(Sign(f"{of}: {name}", f"{percent(row.gain)} +- {percent(row.error)}", _said(row)))
    rows += [Sign(f"probe: {name}", "-", f"not possible: {why}") for name, why in found.refused.items()]
    return tuple(rows)


def sentence(found: Diagnosis, *, falling: bool, surely: bool) -> str:
    """Is it stalled, by what, and what is to be expected; `surely`: the probe alone predicts the gain."""
    parts = (_expected(found, falling, surely), _meaning(found), _prescribed(found))
    return "; ".join(part for part in parts if part)


def _meaning(found: Diagnosis) -> str:
    """What the kind of a plateau means, with its figures; empty of dead units, which are told before."""
    match found.kind:
        case "dying stack" if found.depth is not None:
            return f"a dying stack: {_reach(found.depth)}"
        case "data at fault":
            return (
                "data at fault: on validation data the answers fit their own targets no better than others', though "
                "units and layers are sound. No bypassing helps: look at the labels and the inputs"
            )
        case "overfitting" if found.drift is not None:
            apart = f"loss {_both(found.fit)}; " if found.fit is not None else ""
            return (
                f"overfitting: {apart}going on changes the validation loss by {_change(found.drift)}. Bypassing is not "
                "the remedy; more data, augmentation or weight decay are"
            )
        case "rate too high" if found.lowered is not None and found.averaged is not None:
            return (
                f"the rate is too high: a lowered one changes the validation loss at once ({_change(found.lowered)}), "
                f"and so does averaging ({_change(found.averaged)})"
            )
        case "capacity-bound":
            return (
                f"capacity-bound: training and validation loss are alike, and {_left_over(found)}: only a wider model "
                "helps much (--allow-wider keeps one, at its price)"
            )
        case "finished schedule":
            return "its schedule has come to an end: going on at this rate undoes it"
        case "still learning":
            return "it still learns: going on helps"
    return ""


def _prescribed(found: Diagnosis) -> str:
    return f"worth trying: {', '.join(found.remedies)}" if found.remedies else ""


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


def _reach(depth: Depth) -> str:
    """How far signal and gradient get, and by which layer the signal is lost."""
    lost = next((place for place, signal in enumerate(depth.signals, 1) if signal < DYING), None)
    by = f", lost by layer {lost}" if lost is not None else ""
    return f"{depth.layers} layers: signal {depth.signal:.1e}{by}, gradient {depth.gradient:.1e}"


def _both(fit: Fit) -> str:
    return f"{fit.training:.3g} training, {fit.validation:.3g} validation"


def _left_over(found: Diagnosis) -> str:
    """What shows that capacity is missing."""
    if WIDER in found.probe:
        return f"a wider copy gains {percent(found.probe[WIDER].gain)} over going on at once"
    assert found.read_out is not None
    return f"a read-out of random features of its inputs, beside it, gains {percent(found.read_out.gain)}"


def _fits(fit: Fit) -> str:
    return "alike" if fit.validation <= NARROW * fit.training else "it knows its training data better"


def _change(row: ProbeGain) -> str:
    """As a change of the loss, with its error."""
    return f"{percent(-row.gain)} +- {percent(row.error)}"


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
