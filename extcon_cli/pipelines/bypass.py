"""`extcon bypass`: diagnose, then extend, train and contract by each strategy, and keep the best.

The result is the best of theta*, the baseline and the extensions by the loss on the validation data, after one
temperature has been fitted where the outputs are logits; and never one whose loss is above that of theta*. Controls are
compared with and never chosen. Each further cycle begins at the best so far. A wider model is followed only where the
user allows it, once, and has to be worth its price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extcon_cli.bypass.strategies import BASELINE, CONTROLS, EXTENSIONS, RESTARTS, WIDER
from extcon_cli.channels.widening import widening
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.errors import DataError
from extcon_cli.events import Emit, Noted, ignore
from extcon_cli.pipelines.bypassing.branch import BranchOutcome, follow
from extcon_cli.pipelines.bypassing.diagnosis import diagnose
from extcon_cli.pipelines.bypassing.remedies import control
from extcon_cli.pipelines.bypassing.stalled import Stalled, stalled_model
from extcon_cli.pipelines.running.gates import enforce
from extcon_cli.pipelines.running.output import widths
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.pipelines.running.run import Run
from extcon_cli.pipelines.running.start import start_run
from extcon_cli.recipe.schema import BypassSpec, Recipe
from extcon_cli.report.numbers import count, factor, percent
from extcon_cli.report.results.bypass import (
    NO_GAIN,
    THETA,
    Branch,
    BranchRecord,
    BypassHistory,
    BypassRecord,
    BypassResult,
    Diagnosis,
)
from extcon_cli.report.results.records import Gate, ModelStats, PhaseRecord
from extcon_cli.report.serialise import from_json, to_json


def bypass(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
    ignore_probe: bool = False,
    require_gain: bool = False,
    keep_run: bool = True,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
    rehearsal: bool = False,
) -> BypassResult:
    """Bypass where a checkpoint is stalled, and write the best model to `output`.

    Args:
        ignore_probe: by every extension, though the probe predicts no gain.
        require_gain: GateError, and nothing written, where no extended model is the best.
        keep_run: let the run's folder be there afterwards.
        the others: as in `prune`.
    """
    with start_run(
        "bypass", recipe, checkpoint, output=output, device=device, speed=recipe.bypass, resume=resume, force=force,
        trust=trust, emit=emit, check=_check_validation, rehearsal=rehearsal, plain=True,
    ) as run:  # fmt: skip
        stalled = stalled_model(run.prepared, run.accelerator, run.emit, run.stop, run.processes, run.speed)
        state = _resumed(run) or _diagnosed(run, stalled)
        run.emit(Noted(state.diagnosis.verdict))
        ends = [_theta(stalled), *state.ends]
        wanted = _wanted(run, state.diagnosis, ignore_probe)
        for branch in _branches(run, state.diagnosis, wanted, ignore_probe):
            if branch not in {end.record.branch for end in ends}:
                start = best(ends, before=branch.cycle)
                ends.append(_followed(run, stalled, branch, start, BypassState(state.diagnosis, tuple(ends[1:]))))
        chosen = best(ends, worth=run.recipe.bypass.probe.gain)
        original, module = stalled.model(stalled.theta), stalled.model(chosen.weights or stalled.theta)
        before, after = run.stats(original), run.stats(module)
    tried = [end.record for end in ends[1:]]
    done = BypassRecord(
        before=before,
        after=after,
        verdict=str(chosen.record.branch) if tried else NO_GAIN,
        validation={str(end.record.branch): end.record.loss for end in ends if end.record.loss is not None},
        calibrated={str(end.record.branch): found for end in ends if (found := end.record.calibrated)} or None,
        diagnosis=state.diagnosis,
        certificate={str(record.branch): record.certificate for record in tried if record.certificate is not None},
    )
    original, module = original.cpu(), module.cpu()
    gates = (_gain_gate(chosen.record.branch),) if require_gain else ()
    result = BypassResult(
        **vars(done),
        run=run.facts(),
        layers=widths(original, module),
        history=BypassHistory(tuple(record.history for record in tried)),
        gates=gates or None,
    )
    enforce(gates, result, hint="; nothing was written")
    added = widening(original, module.state_dict())
    if added.added:
        run.emit(Noted(_price(before, after), warning=True))
    run.write(module, done, plan=added.to_json() if added.added else None)
    run.finish(keep=keep_run)
    return result


def _gain_gate(best: Branch) -> Gate:
    passed = best.strategy in (*EXTENSIONS, WIDER)
    said = f"{'a gain' if passed else 'no gain'}: the best on the validation data is {best}"
    return Gate("require-gain", passed, None, None, said)


def strategies(
    spec: BypassSpec, chosen: Sequence[str] | None = None, controls: Sequence[str] = ("lr_drop", "cosine")
) -> tuple[str, ...]:
    """What the recipe asks for, in order.

    Args:
        chosen: in place of its extensions. All, where it names none.
        controls: where it names none.
    """
    extensions: Iterable[str] = chosen if chosen is not None else spec.extensions or EXTENSIONS
    beside = spec.controls if spec.controls is not None else controls
    return (*((BASELINE, *beside) if spec.baseline else ()), *extensions)


def best(ends: Sequence[BranchOutcome], before: int | None = None, worth: float = 0.0) -> BranchOutcome:
    """The one with the least validation loss, calibrated where it is known, of the cycles `before` one.

    Controls do not count, and nothing whose loss as it is lies above that of the first, theta*.

    Args:
        worth: share of the loss that a wider model has to gain over the best of the own architecture.
    """
    bound = ends[0].record.loss
    counted = [
        (_judged(end) / (1 - worth if end.record.branch.strategy == WIDER else 1), place)
        for place, end in enumerate(ends)
        if end.record.loss is not None
        and (bound is None or end.record.loss <= bound)
        and end.record.branch.strategy not in CONTROLS
        and (before is None or (end.record.branch.cycle < before and end.record.branch.strategy != WIDER))
    ]
    return ends[min(counted)[1]]


def _judged(end: BranchOutcome) -> float:
    """The loss by which a branch that gave a model is compared."""
    loss = end.record.calibrated.loss if end.record.calibrated is not None else end.record.loss
    assert loss is not None
    return loss


@dataclass(frozen=True)
class BypassState:
    """What a run keeps beside the branch that is under way."""

    diagnosis: Diagnosis
    ends: tuple[BranchOutcome, ...] = ()

    def to_payload(self, seconds: Mapping[str, float]) -> dict[str, object]:
        """As a run directory keeps it."""
        ends = [{"record": to_json(end.record), "weights": end.weights} for end in self.ends]
        return {"diagnosis": to_json(self.diagnosis), "ends": ends, "seconds": dict(seconds)}


def _check_validation(prepared: Prepared) -> None:
    if not len(prepared.data.validation):
        raise DataError("bypass chooses by validation data: set data.validation above 0")


def _theta(stalled: Stalled) -> BranchOutcome:
    """theta* as a candidate: the end of no training."""
    module = stalled.model(stalled.theta)
    loss, history = stalled.metrics(module, "validation")["loss"], PhaseRecord(str(THETA), (), ())
    return BranchOutcome(BranchRecord(THETA, loss, history, None, stalled.calibrated(module)), stalled.theta)


def _diagnosed(run: Run, stalled: Stalled) -> BypassState:
    with run.phase("probe", "Probing in miniature", None, "step"):
        state = BypassState(diagnose(stalled))
    run.directory.save("diagnosis", {"more": state.to_payload(run.seconds)})
    return state


def _resumed(run: Run) -> BypassState | None:
    """What a run that was interrupted had done."""
    if run.resume_state is None:
        return None
    kept = run.resume_state.payload["more"]
    run.seconds.update(kept["seconds"])
    ends = (BranchOutcome(from_json(BranchRecord, end["record"]), end["weights"]) for end in kept["ends"])
    return BypassState(from_json(Diagnosis, kept["diagnosis"]), tuple(ends))


def _price(before: ModelStats, after: ModelStats) -> str:
    """What a wider result costs."""
    sizes = (("parameters", before.size.params, after.size.params), ("MACs", before.size.macs, after.size.macs))
    said = ", ".join(f"{count(new)} {name} in place of {count(old)} ({factor(old, new)})" for name, old, new in sizes)
    return f"the result is a wider model: {said}"


def _branches(run: Run, diagnosis: Diagnosis, wanted: Sequence[str], ignore_probe: bool) -> list[Branch]:
    """The strategies that are worth following, cycle by cycle; then a wider model, where it is asked for."""
    spec = run.recipe.bypass
    found = [Branch(name, cycle) for cycle in range(1, spec.cycles + 1) for name in wanted]
    if spec.allow_wider and (ignore_probe or diagnosis.kind == "capacity-bound"):
        found.append(Branch(WIDER, spec.cycles))
    return found


def _wanted(run: Run, diagnosis: Diagnosis, ignore_probe: bool) -> tuple[str, ...]:
    """The strategies that are worth following; none where no gain is to be expected."""
    spec = run.recipe.bypass
    if ignore_probe:
        return strategies(spec)
    named = spec.extensions
    chosen = [
        name
        for name in (named or diagnosis.remedies)
        if name not in diagnosis.excluded and (diagnosis.predicted or name in RESTARTS)
    ]
    if not chosen:
        text = f"no gain is to be expected: stopped (--ignore-probe bypasses all the same){_instead(run, diagnosis)}"
        run.emit(Noted(text, warning=True))
        return ()
    allowed: Iterable[str] = named or EXTENSIONS
    left = [name for name in allowed if name not in chosen]
    if named is None:
        run.emit(Noted(f"chosen by the diagnosis: {', '.join(chosen)}; left out: {', '.join(left) or 'none'}"))
    elif left:
        run.emit(Noted(f"left out, far behind in the probe: {', '.join(left)} (--ignore-probe tries them all)"))
    return strategies(spec, chosen, controls=(control(diagnosis),))


def _instead(run: Run, diagnosis: Diagnosis) -> str:
    """What the probe found to help in place of an extension."""
    spec, lowered = run.recipe.bypass.probe, diagnosis.probe.get("lr_drop")
    if lowered is None or lowered.gain < max(spec.gain, 2 * lowered.error):
        return ""
    return f"; {spec.lr_drop:g} of the learning rate would gain {percent(lowered.gain)}"


def _followed(run: Run, stalled: Stalled, branch: Branch, start: BranchOutcome, state: BypassState) -> BranchOutcome:
    """One branch, from the best of the cycles before."""
    kept = run.resume_state
    assert start.weights is not None
    end = follow(
        stalled,
        branch,
        start.weights,
        directory=run.directory,
        resume_state=kept.payload if kept is not None and kept.phase == str(branch) else None,
        rest=lambda: state.to_payload(run.seconds),
    )
    if end.seconds is not None:
        run.seconds[str(branch)] = end.seconds
    return end
