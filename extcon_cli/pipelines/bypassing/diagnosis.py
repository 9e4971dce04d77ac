"""Is a model stalled, by what, and what would help? Evidence, a probe on copies, and a verdict. Nothing is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from extcon_cli.bypass.extension import extend
from extcon_cli.bypass.features import feature_rank
from extcon_cli.bypass.plateau import UnitCounts, dead_units, slope
from extcon_cli.bypass.propagation import propagation
from extcon_cli.bypass.strategies import BASELINE, CONTROLS, EXTENSIONS, RESTARTS, WIDER
from extcon_cli.bypass.strategies.identity import FEW, square_layers
from extcon_cli.bypass.strategies.revive import constant_units
from extcon_cli.bypass.units import units
from extcon_cli.errors import GateError, TraceError, UsageError
from extcon_cli.pipelines.bypassing.kinds import MOSTLY_DEAD, dying, kind, unexplained
from extcon_cli.pipelines.bypassing.probe import Probe, Refusal, Trial, against, gains
from extcon_cli.pipelines.bypassing.remedies import remedies
from extcon_cli.pipelines.bypassing.stalled import Stalled
from extcon_cli.pipelines.bypassing.verdict import counts, sentence, signs
from extcon_cli.report.results.bypass import (
    DeadUnits,
    Depth,
    Diagnosis,
    Features,
    Fit,
    GradientNorm,
    LossSlope,
    ProbeGain,
)

STALLED_T, STALLED_SLOPE = 2.0, 0.05
"""Of a window of losses: a t statistic, or a share of the loss in 1000 steps, under which it counts as stalled."""
SETTLING = 4
"""One in so many steps, at first, that does not count for the slope: a checkpoint brings no moments of its optimizer,
and the loss that jumps when they begin anew and falls back would look like progress."""
PROBED_DEAD = 0.1
"""Share of dead units from which on extensions are probed: without dead units none has gained anything."""


@dataclass(frozen=True)
class Evidence:
    """What is known of theta* before anything is tried, and theta* as a trial of no steps."""

    dead: Mapping[str, DeadUnits]
    gradient: GradientNorm
    temperature: float | None = None
    """That calibrates theta*; None: its outputs are no logits."""
    theta: Trial | None = None
    """None: it was not measured."""
    depth: Depth | None = None
    """None: the model has no deep plain stack."""
    features: Features | None = None
    read_out: ProbeGain | None = None
    """None: it was not asked, or not possible."""


def diagnose(stalled: Stalled) -> Diagnosis:
    """Evidence at theta*; then going on and a lowered rate in miniature; then what these leave open.

    Raises: UsageError (no extension of this model, and no restart is allowed).
    """
    module, probe = stalled.model(stalled.theta), Probe(stalled)
    evidence = _evidence(stalled, module, probe)
    restarts = tuple(name for name in RESTARTS if name in (stalled.spec.extensions or RESTARTS))

    probe.follow(BASELINE)

    def concluded() -> Diagnosis:
        return stalled.processes.once(
            lambda: conclude(probe.trials, evidence, least_gain=stalled.spec.probe.gain, restarts=restarts)
        )

    if stalled.spec.extensions or evidence.depth is None or not dying(evidence.depth):  # which says it all
        probe.follow("lr_drop", *_extensions(stalled, evidence))
    found = concluded()
    if unexplained(found, stalled.spec.probe.gain):
        evidence = replace(evidence, read_out=probe.read_out(module))
        found = concluded()
    if unexplained(found, stalled.spec.probe.gain):
        probe.follow(WIDER)
        found = concluded()
    return found


def _extensions(stalled: Stalled, evidence: Evidence) -> tuple[str, ...]:
    """Which extensions are probed: those that the recipe names; else all, where enough units are dead."""
    named = stalled.spec.extensions
    dead, _, number = counts(evidence.dead)
    if named is None and dead < PROBED_DEAD * max(1, number):  # without a unit known, none is dead
        return ()
    return tuple(name for name in named or EXTENSIONS if name not in RESTARTS)


def conclude(
    trials: Mapping[str, Trial | Refusal],
    evidence: Evidence,
    *,
    least_gain: float,
    restarts: tuple[str, ...] = (),
) -> Diagnosis:
    """What trials and evidence say together.

    Where most units are dead the model is stalled, and a gain is predicted unless the probe is sure of none.

    Args:
        trials: of going on, of controls and of the extensions, of equal length, on the same batches.
        least_gain: share of the loss, and at least twice its standard error, from which on a gain is predicted.
        restarts: those that may be prescribed.

    Raises: UsageError (no extension of this model, and no restart is allowed).
    """
    base, dead = trials[BASELINE], evidence.dead
    if isinstance(base, Refusal):
        raise UsageError(f"the model cannot be trained on: {base.reason}")
    probe = gains(base, trials)
    refused = {name: trial.reason for name, trial in trials.items() if isinstance(trial, Refusal)}
    extensions = [name for name in probe if name not in (BASELINE, WIDER, *CONTROLS)]
    if not extensions and not restarts:
        raise UsageError(f"no extension of this model: {'; '.join(f'{k}: {v}' for k, v in refused.items())}")
    sure = [name for name in extensions if probe[name].gain > 2 * probe[name].error]
    best = max(sure or extensions or [BASELINE], key=lambda name: probe[name].gain)
    found = slope(base.training[len(base.training) // SETTLING :])
    falling = found.t >= STALLED_T and found.relative >= STALLED_SLOPE
    gone, _, number = counts(dead)
    mostly_dead = number > 0 and gone >= MOSTLY_DEAD * number
    surely = best in sure and probe[best].gain >= least_gain
    hopeful = any(probe[name].gain + 2 * probe[name].error >= least_gain for name in extensions)
    reach = -least_gain if mostly_dead and not surely else probe[best].gain - 2 * probe[best].error
    diagnosis = Diagnosis(
        slope=LossSlope(found.relative, found.t),
        stalled=mostly_dead or not falling,
        dead=dead,
        gradient=evidence.gradient,
        probe=probe,
        refused=refused,
        probed=best,
        gain=probe[best].gain,
        gain_error=probe[best].error,
        predicted=surely or (mostly_dead and hopeful),
        excluded=tuple(name for name in extensions if probe[name].gain + 2 * probe[name].error < reach),
        mostly_dead=mostly_dead,
        temperature=evidence.temperature,
        depth=evidence.depth,
        features=evidence.features,
        read_out=evidence.read_out,
    )
    if evidence.theta is not None:
        diagnosis = _since(diagnosis, evidence.theta, trials)
    diagnosis = replace(diagnosis, kind=kind(diagnosis, least_gain))
    diagnosis = replace(diagnosis, remedies=remedies(diagnosis, restarts))
    return replace(
        diagnosis,
        signs=signs(diagnosis, falling=falling),
        verdict=sentence(diagnosis, falling=falling, surely=surely),
    )


def _since(diagnosis: Diagnosis, theta: Trial, trials: Mapping[str, Trial | Refusal]) -> Diagnosis:
    """With what a few steps change against theta* itself."""
    base, lowered = (trial if isinstance(trial, Trial) else None for trial in map(trials.get, (BASELINE, "lr_drop")))
    if base is not None:
        diagnosis = replace(diagnosis, drift=against(theta.validation, base.validation))
        if base.averaged is not None:
            diagnosis = replace(diagnosis, averaged=against(theta.validation, base.averaged))
        if theta.fitted is not None and base.fitted is not None:
            diagnosis = replace(diagnosis, learnt=against(theta.fitted, base.fitted))
    if lowered is not None:
        diagnosis = replace(diagnosis, lowered=against(theta.validation, lowered.validation))
    if theta.fitted is None:
        return diagnosis
    told = [ahead for trial in (theta, base, lowered) if (ahead := _informed(trial)) is not None]
    fit = Fit(
        training=float(theta.fitted.mean()),
        validation=float(theta.validation.mean()),
        shuffled=float(theta.shuffled.mean()) if theta.shuffled is not None else None,
        informed=max(told, default=None),
    )
    return replace(diagnosis, fit=fit)


def _informed(trial: Trial | None) -> float | None:
    """By how many standard errors the outputs fit their own targets better than others'."""
    if trial is None or trial.shuffled is None or len(trial.shuffled) < 2:
        return None
    gaps = trial.shuffled - trial.validation
    return float(gaps.mean() / (gaps.std() / len(gaps) ** 0.5).clamp_min(1e-30))


def gradient_norm(module: nn.Module, losses: Iterable[Tensor]) -> GradientNorm:
    """||mean gradient|| of these losses, also as a share of ||theta||."""
    weights = [p for p in module.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in weights]
    number = 0
    for loss in losses:
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        for held, new in zip(total, found, strict=True):
            if new is not None:
                held.add_(new)
        number += 1
    norm = float(torch.stack([held.norm() for held in total]).norm() / max(number, 1))
    theta = float(torch.stack([p.detach().norm() for p in weights]).norm())
    return GradientNorm(norm, norm / max(theta, 1e-30))


def _evidence(stalled: Stalled, module: nn.Module, probe: Probe) -> Evidence:
    """Dead units, gradient, depth and features at theta*, its temperature and its losses."""
    calibrated = stalled.calibrated(module)
    rank = feature_rank(module, (stalled.task.arguments(inputs) for inputs, _ in stalled.batches()))
    return Evidence(
        dead=_dead(stalled, module),
        gradient=gradient_norm(module, (stalled.loss(module, batch) for batch in stalled.batches())),
        temperature=calibrated.temperature if calibrated is not None else None,
        theta=probe.theta(module),
        depth=_depth(stalled, module),
        features=Features(**asdict(rank)) if rank is not None else None,
    )


def _depth(stalled: Stalled, module: nn.Module) -> Depth | None:
    """How far signal and gradient reach, where there is a deep plain stack."""
    try:
        layers = square_layers(module, stalled.channels)
    except (GateError, TraceError, UsageError):
        return None
    if len(layers) < FEW:
        return None
    return Depth(**asdict(propagation(module, layers, stalled.batches(), stalled.loss)))


def _dead(stalled: Stalled, module: nn.Module) -> dict[str, DeadUnits]:
    """Dead units by activation; by channel group where the model's forward pass cannot be rewritten."""
    found: Mapping[str, UnitCounts]
    try:
        extended = extend(module, stalled.example)
    except (GateError, TraceError, UsageError):
        found = constant_units(module, units(module, stalled.channels), stalled.inputs())
    else:
        found = dead_units(extended, stalled.inputs)
    return {name: DeadUnits(**asdict(count)) for name, count in found.items()}
