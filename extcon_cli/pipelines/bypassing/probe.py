"""A strategy in miniature, on a copy, contraction included, and the losses of single samples that it is judged by.

What an extended copy gains before it is contracted tells nothing of it: it gained 14 to 45 % on ten seeds, of which
contraction left 4 nothing at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from extcon_cli.averaging import WeightAverage
from extcon_cli.bypass.readout import read_out, rows
from extcon_cli.bypass.strategies import BASELINE, STRATEGIES
from extcon_cli.bypass.strategies.base import PhaseSteps, StrategyContext
from extcon_cli.errors import GateError, TraceError, UsageError
from extcon_cli.events import Progress
from extcon_cli.pipelines.bypassing.phased import phased_training
from extcon_cli.pipelines.bypassing.stalled import Stalled
from extcon_cli.pipelines.running.phase import PROGRESS_EVERY
from extcon_cli.processes import ALONE, Processes
from extcon_cli.report.results.bypass import ProbeGain
from extcon_cli.tasks import Batch
from extcon_cli.training.objective import per_sample_loss

SAMPLES = 4000
"""Of each split at most, by whole batches spread evenly over it, whose losses are compared."""
AVERAGED = 0.6
"""Share of going on, the last, whose states are averaged: where a rate is too high, their mean is better at once."""


@dataclass(frozen=True)
class Trial:
    """A short run of one strategy; theta* itself is one of no steps."""

    training: Sequence[float]  # the loss of each step
    validation: Tensor  # (N,) the loss of each sample at its end, back in the original architecture
    fitted: Tensor | None = None
    """(M,) the same of training samples, as they are evaluated. None: not measured."""
    averaged: Tensor | None = None
    """(N,) as `validation`, of the mean of its last weights. None: not measured."""
    shuffled: Tensor | None = None
    """(N,) the loss of each validation sample's outputs against the targets of another one. None: not possible."""


@dataclass(frozen=True)
class Refusal:
    """A strategy that the model does not allow, or that gave no model."""

    reason: str


@dataclass(frozen=True)
class Answers:
    """Samples with what a model gives for them."""

    inputs: Tensor  # (N, numbers)
    outputs: Tensor  # (N, K)
    targets: Tensor  # (N, ...)


@dataclass
class Probe:
    """The trials of one diagnosis, one after the other, each on the same batches."""

    stalled: Stalled
    trials: dict[str, Trial | Refusal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.context = in_miniature(self.stalled)

    def theta(self, module: nn.Module) -> Trial:
        """theta* before any step."""
        return self._judged(module, [])

    def follow(self, *names: str) -> None:
        """Try strategies that have not been tried yet."""
        for name in names:
            if name not in self.trials:
                self.trials[name] = self._follow(name)

    @torch.no_grad()
    def read_out(self, module: nn.Module) -> ProbeGain | None:
        """What a read-out of random features of the inputs gains beside a module. None: inputs are no numbers, or
        outputs no rows of them.

        Every process fits the whole, and so finds the same.
        """
        fitted, judged = (self._answers(module, split) for split in ("train", "validation"))
        if fitted is None or judged is None:
            return None
        task = self.stalled.prepared.task
        found = read_out(fitted.inputs, fitted.outputs, lambda outputs: task.loss(outputs, fitted.targets))
        beside = judged.outputs + found(judged.inputs)
        losses = (task.sample_losses(outputs, judged.targets).double() for outputs in (judged.outputs, beside))
        return against(*losses)

    def _answers(self, module: nn.Module, split: str) -> Answers | None:
        """What a module gives for the samples of a split that losses are compared on."""
        stalled = self.stalled
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in self._batches(split, ALONE):
            given, outputs, targets = stalled.task.arguments(batch[0]), stalled.task.forward(module, batch), batch[1]
            inputs = given[0] if isinstance(given, tuple) and len(given) == 1 else None
            x = rows(inputs) if isinstance(inputs, Tensor) else None
            if x is None or not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or outputs.dim() != 2:
                return None
            parts.append((x.cpu(), outputs.float().cpu(), targets.cpu()))
        return Answers(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _follow(self, name: str) -> Trial | Refusal:
        stalled, context, place = self.stalled, self.context, len(self.trials)
        mean = WeightAverage(AVERAGED, context.phases.total) if name == BASELINE else None
        try:
            strategy = STRATEGIES[name](context)
            training = phased_training(stalled, name, strategy)
            losses, shown = [], 0.0
            for step in training.trainer:
                stalled.stop.check()
                training.after_step(step)
                losses.append(step.loss)
                if mean is not None:
                    mean.note(strategy.module, step.index)
                if step.last or time.monotonic() - shown >= PROGRESS_EVERY:
                    stalled.emit(Progress("probe", place * step.total + training.trainer.done))
                    shown = time.monotonic()
            module = strategy.contract().module
        except (GateError, TraceError, UsageError) as error:
            return Refusal(str(error))
        found = self._judged(module.eval(), torch.stack(losses).tolist())
        return replace(found, averaged=self._averaged(mean)) if mean is not None else found

    def _judged(self, module: nn.Module, losses: Sequence[float]) -> Trial:
        stalled, task = self.stalled, self.stalled.prepared.task
        fitted = per_sample_loss(module, self._batches("train"), task, stalled.processes)
        validation = per_sample_loss(module, self._batches("validation"), task, stalled.processes)
        return Trial(losses, validation, fitted, shuffled=self._shuffled(module))

    def _averaged(self, mean: WeightAverage) -> Tensor:
        stalled = self.stalled
        module = mean.result(stalled.task.arguments(inputs) for inputs, _ in stalled.batches())
        return per_sample_loss(module, self._batches("validation"), stalled.prepared.task, stalled.processes)

    @torch.no_grad()
    def _shuffled(self, module: nn.Module) -> Tensor | None:
        """The losses of outputs against the targets of other samples, drawn within and between batches."""
        task = self.stalled.prepared.task
        generator = torch.Generator().manual_seed(0)
        found: list[Tensor] = []
        before: Tensor | None = None
        possible = True
        for batch in self._batches("validation"):
            outputs, targets = task.forward(module, batch), batch[1]
            possible = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
            if not possible:
                break
            others = targets if before is None else torch.cat([before, targets])
            drawn = torch.randperm(len(others), generator=generator)[: len(targets)]
            found.append(task.sample_losses(outputs, others[drawn.to(others.device)]).double().cpu())
            before = targets
        gathered = self.stalled.processes.gathered((possible, found))  # by all, whatever one of them has seen
        if not all(part for part, _ in gathered):
            return None
        return torch.cat([losses for _, part in gathered for losses in part])

    def _batches(self, split: str, processes: Processes | None = None) -> Iterator[Batch]:
        """This process's part of at most `SAMPLES` samples of a split, the same ones each time; of other `processes`,
        where they are given."""
        stalled = self.stalled
        loader = stalled.prepared.data.eval_loader(split, device=stalled.accelerator.device)
        number = min(len(loader), max(1, math.ceil(SAMPLES / loader.batch_size)))
        steps = [round(place * (len(loader) - 1) / max(1, number - 1)) for place in range(number)]
        return (loader.batch(step) for step in steps[(processes or stalled.processes).share.of(number)])


def in_miniature(stalled: Stalled) -> StrategyContext:
    """Half of the probe's steps are opt_1, a quarter opt_2. `radius` contracts: it needs no time to find its way."""
    context, steps = stalled.context(stalled.theta), stalled.spec.probe.steps
    radius = replace(context.settings.contraction, method="radius")
    phases = PhaseSteps(steps - 2 * (steps // 4), steps // 4, steps // 4)
    return replace(context, phases=phases, settings=replace(context.settings, contraction=radius))


def against(base: Tensor, losses: Tensor) -> ProbeGain:  # each (N,), of the same samples
    """Mean loss, relative gain over the base, and its standard error over the samples, taken in pairs."""
    gaps, scale = base - losses, float(base.mean().abs().clamp_min(1e-30))
    error = float(gaps.std()) / math.sqrt(len(gaps)) / scale if len(gaps) > 1 else math.inf
    return ProbeGain(float(losses.mean()), float(gaps.mean()) / scale, error)


def gains(base: Trial, trials: Mapping[str, Trial | Refusal]) -> dict[str, ProbeGain]:
    """What each trial gains over another one on the validation data."""
    return {name: against(base.validation, t.validation) for name, t in trials.items() if isinstance(t, Trial)}
