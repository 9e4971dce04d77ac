"""Is a model stalled, and would an extension help? Evidence, a probe on copies, and a verdict. Nothing is kept.

The probe is the run in miniature, contraction included, judged on the validation data. What the extended copy gains
before it is contracted tells nothing: it gained 14 to 45 % on ten seeds, of which contraction left 4 nothing at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from extcon_cli.bypass.extension import extend
from extcon_cli.bypass.plateau import UnitCounts, dead_units, slope
from extcon_cli.bypass.propagation import propagation
from extcon_cli.bypass.strategies import BASELINE, CONTROLS, EXTENSIONS, RESTARTS, STRATEGIES
from extcon_cli.bypass.strategies.base import PhaseSteps, StrategyContext
from extcon_cli.bypass.strategies.identity import FEW, square_layers
from extcon_cli.bypass.strategies.revive import constant_units
from extcon_cli.bypass.units import units
from extcon_cli.errors import GateError, TraceError, UsageError
from extcon_cli.events import Progress
from extcon_cli.pipelines.bypassing.phased import phased_training
from extcon_cli.pipelines.bypassing.remedies import kind, remedies
from extcon_cli.pipelines.bypassing.stalled import Stalled
from extcon_cli.pipelines.bypassing.verdict import counts, sentence, signs
from extcon_cli.pipelines.running.phase import PROGRESS_EVERY
from extcon_cli.report.results.bypass import DeadUnits, Depth, Diagnosis, GradientNorm, LossSlope, ProbeGain
from extcon_cli.training.objective import own_batches, per_sample_loss

STALLED_T, STALLED_SLOPE = 2.0, 0.05
"""Of a window of losses: a t statistic, or a share of the loss in 1000 steps, under which it counts as stalled."""
MOSTLY_DEAD = 0.5
"""Share of dead units that outweighs the slope and an unsure probe. A loss can fall by what few units are left, and a
gain of half the loss be within the error of a probe on a few dozen validation samples."""
SETTLING = 4
"""One in so many steps, at first, that does not count for the slope: a checkpoint brings no moments of its optimizer,
and the loss that jumps when they begin anew and falls back would look like progress."""


@dataclass(frozen=True)
class Trial:
    """A short run of one strategy."""

    training: list[float]  # the loss of each step
    validation: Tensor  # (N,) the loss of each sample at its end, back in the original architecture


@dataclass(frozen=True)
class Refusal:
    """A strategy that the model does not allow, or that gave no model."""

    reason: str


def probed(stalled: Stalled) -> tuple[str, ...]:
    """The strategies that a diagnosis tries: going on, two controls, and the extensions that the recipe allows."""
    allowed: Iterable[str] = stalled.spec.extensions or EXTENSIONS
    return (BASELINE, "lr_drop", "cosine", *(name for name in allowed if name not in RESTARTS))


def diagnose(stalled: Stalled) -> Diagnosis:
    """The whole run in miniature, on copies and the same batches; dead units and the gradient at theta*.

    Raises: UsageError (no extension of this model, and no restart is allowed).
    """
    module = stalled.model(stalled.theta)
    dead = _dead(stalled, module)
    gradient = gradient_norm(module, (stalled.loss(module, batch) for batch in stalled.batches()))
    context = _in_miniature(stalled)
    trials = {name: _try(stalled, name, context, place) for place, name in enumerate(probed(stalled))}
    restarts = tuple(name for name in RESTARTS if name in (stalled.spec.extensions or RESTARTS))
    calibrated = stalled.calibrated(module)
    temperature = calibrated.temperature if calibrated is not None else None
    theta, depth = _sample_losses(stalled, module), _depth(stalled, module)
    return stalled.processes.once(
        lambda: conclude(
            trials,
            dead,
            gradient,
            least_gain=stalled.spec.probe.gain,
            restarts=restarts,
            temperature=temperature,
            theta=theta,
            depth=depth,
        )
    )


def conclude(
    trials: Mapping[str, Trial | Refusal],
    dead: Mapping[str, DeadUnits],
    gradient: GradientNorm,
    *,
    least_gain: float,
    restarts: tuple[str, ...] = (),
    temperature: float | None = None,
    theta: Tensor | None = None,
    depth: Depth | None = None,
) -> Diagnosis:
    """Slope of going on, dead units, gradient norm, and what each extension gains over going on in a few steps.

    Where most units are dead the model is stalled, and a gain is predicted unless the probe is sure of none.

    Args:
        trials: of going on, of controls and of the extensions, of equal length, on the same batches.
        dead: by layer.
        least_gain: share of the loss, and at least twice its standard error, from which on a gain is predicted.
        restarts: those that may be prescribed.
        temperature: that calibrates theta*; None: its outputs are no logits.
        theta: (N,) the loss of each validation sample at theta*. None: it was not measured.
        depth: of a plain stack. None: the model has none.

    Raises: UsageError (no extension of this model, and no restart is allowed).
    """
    base = trials[BASELINE]
    if isinstance(base, Refusal):
        raise UsageError(f"the model cannot be trained on: {base.reason}")
    probe = {name: _against(base, trial) for name, trial in trials.items() if isinstance(trial, Trial)}
    refused = {name: trial.reason for name, trial in trials.items() if isinstance(trial, Refusal)}
    extensions = [name for name in probe if name != BASELINE and name not in CONTROLS]
    if not extensions and not restarts:
        raise UsageError(f"no extension of this model: {'; '.join(f'{k}: {v}' for k, v in refused.items())}")
    sure = [name for name in extensions if probe[name].gain > 2 * probe[name].error]
    best = max(sure or extensions or [BASELINE], key=lambda name: probe[name].gain)
    found = slope(base.training[len(base.training) // SETTLING :])
    falling = found.t >= STALLED_T and found.relative >= STALLED_SLOPE
    dying, _, units = counts(dead)
    mostly_dead = units > 0 and dying >= MOSTLY_DEAD * units
    surely = best in sure and probe[best].gain >= least_gain
    hopeful = any(probe[name].gain + 2 * probe[name].error >= least_gain for name in extensions)
    reach = -least_gain if mostly_dead and not surely else probe[best].gain - 2 * probe[best].error
    diagnosis = Diagnosis(
        slope=LossSlope(found.relative, found.t),
        stalled=mostly_dead or not falling,
        dead=dead,
        gradient=gradient,
        probe=probe,
        refused=refused,
        probed=best,
        gain=probe[best].gain,
        gain_error=probe[best].error,
        predicted=surely or (mostly_dead and hopeful),
        excluded=tuple(name for name in extensions if probe[name].gain + 2 * probe[name].error < reach),
        mostly_dead=mostly_dead,
        temperature=temperature,
        depth=depth,
    )
    if theta is not None:
        begin = Trial([], theta)
        drift = {name: _against(begin, t) for name, t in trials.items() if isinstance(t, Trial)}
        diagnosis = replace(diagnosis, drift=drift[BASELINE])
    else:
        drift = {}
    lowered = {name: row for name, row in drift.items() if name in CONTROLS}
    diagnosis = replace(diagnosis, kind=kind(diagnosis, lowered, falling=found.t >= STALLED_T, least_gain=least_gain))
    return replace(
        diagnosis,
        remedies=remedies(diagnosis, restarts),
        signs=signs(diagnosis, falling=falling),
        verdict=sentence(diagnosis, falling=falling, surely=surely),
    )


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


def _against(base: Trial, trial: Trial) -> ProbeGain:
    """Validation loss, relative gain over the baseline, and its standard error over the samples, taken in pairs."""
    gaps, scale = base.validation - trial.validation, float(base.validation.mean().abs().clamp_min(1e-30))
    error = float(gaps.std()) / math.sqrt(len(gaps)) / scale if len(gaps) > 1 else math.inf
    return ProbeGain(float(trial.validation.mean()), float(gaps.mean()) / scale, error)


def _in_miniature(stalled: Stalled) -> StrategyContext:
    """Half of the probe's steps are opt_1, a quarter opt_2. `radius` contracts: it needs no time to find its way."""
    context, steps = stalled.context(stalled.theta), stalled.spec.probe.steps
    radius = replace(context.settings.contraction, method="radius")
    phases = PhaseSteps(steps - 2 * (steps // 4), steps // 4, steps // 4)
    return replace(context, phases=phases, settings=replace(context.settings, contraction=radius))


def _try(stalled: Stalled, name: str, context: StrategyContext, place: int) -> Trial | Refusal:
    """A short run of a strategy, the `place`-th of the probe."""
    try:
        strategy = STRATEGIES[name](context)
        training = phased_training(stalled, name, strategy)
        losses, shown = [], 0.0
        for step in training.trainer:
            stalled.stop.check()
            training.after_step(step)
            losses.append(step.loss)
            if step.last or time.monotonic() - shown >= PROGRESS_EVERY:
                stalled.emit(Progress("probe", place * step.total + training.trainer.done))
                shown = time.monotonic()
        module = strategy.contract().module
    except (GateError, TraceError, UsageError) as error:
        return Refusal(str(error))
    return Trial(torch.stack(losses).tolist(), _sample_losses(stalled, module.eval()))


def _sample_losses(stalled: Stalled, module: nn.Module) -> Tensor:
    """The loss of each validation sample: (N,)."""
    loader = stalled.prepared.data.eval_loader("validation", device=stalled.accelerator.device)
    own, task = own_batches(loader, stalled.processes), stalled.prepared.task
    return per_sample_loss(module, own, task, stalled.processes)


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
    counts: Mapping[str, UnitCounts]
    try:
        extended = extend(module, stalled.example)
    except (GateError, TraceError, UsageError):
        counts = constant_units(module, units(module, stalled.channels), stalled.inputs())
    else:
        counts = dead_units(extended, stalled.inputs)
    return {name: DeadUnits(**asdict(count)) for name, count in counts.items()}
