"""The stalled model, and what every training from it shares: batches, task, device. It trains nothing itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from extcon_cli.averaging import BATCHES
from extcon_cli.bypass.contraction import ContractionSettings
from extcon_cli.bypass.strategies import Strategy
from extcon_cli.bypass.strategies.base import (
    PhaseSteps,
    RestartSettings,
    Schedule,
    Scoring,
    StrategyContext,
    StrategySettings,
)
from extcon_cli.channels import Channels, channel_groups
from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.widening import add, widening
from extcon_cli.errors import UsageError
from extcon_cli.events import Emit, ignore
from extcon_cli.pipelines.running.measure import measured
from extcon_cli.pipelines.running.phase import interruptible
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.processes import ALONE, Processes
from extcon_cli.recipe.schema import BypassSpec, OptimizerSpec, ScheduleSpec, TrainSpec
from extcon_cli.report.results.bypass import CalibratedLoss
from extcon_cli.report.results.records import Metrics
from extcon_cli.tasks import Batch, Task
from extcon_cli.training.calibration import calibrate
from extcon_cli.training.device import Accelerator
from extcon_cli.training.interrupt import Stop
from extcon_cli.training.loop import Trainer
from extcon_cli.training.objective import Batches, objective
from extcon_cli.training.optim import total_steps
from extcon_cli.training.speed import PLAIN, Speed

Weights = Mapping[str, Tensor]
"""A state dict of the original architecture."""
SCORED_BATCHES = 20
"""Training batches over which the gradient's norm, and the energy of units, are taken."""


@dataclass(frozen=True)
class Stalled:
    """theta*, and how to train and to measure what comes of it."""

    prepared: Prepared
    accelerator: Accelerator
    emit: Emit
    stop: Stop
    theta: Weights
    example: Inputs
    loader: Batches
    task: Task
    processes: Processes = ALONE
    speed: Speed = PLAIN

    @property
    def spec(self) -> BypassSpec:
        return self.prepared.recipe.bypass

    @cached_property
    def channels(self) -> Channels:
        """The channel groups of the architecture; traced when a strategy first asks for them."""
        return channel_groups(self.model(self.theta), self.example)

    @property
    def phases(self) -> PhaseSteps:
        """The recipe's opt_1, opt_2 and train_3."""
        parts = (self.spec.opt_1, self.spec.opt_2, self.spec.train_3)
        return PhaseSteps(*(total_steps(part, len(self.loader)) for part in parts))

    def model(self, weights: Weights) -> nn.Module:
        """A new copy of the model with these weights, in eval mode; wider, where they are of a wider one."""
        module = copy.deepcopy(self.prepared.module)
        add(module, widening(module, weights))
        module.load_state_dict(weights)
        return module.to(self.accelerator.device).eval()

    def metrics(self, module: nn.Module, split: str) -> Metrics:
        """Figures of a module on one split of the data."""
        return measured(module, self.prepared, split, self.accelerator, self.stop, self.processes) or {}

    def calibrated(self, module: nn.Module) -> CalibratedLoss | None:
        """The validation loss at its best temperature; None: the outputs are no logits."""
        loader = self.prepared.data.eval_loader("validation", device=self.accelerator.device)
        found = calibrate(module, lambda: interruptible(iter(loader), self.stop), self.task)
        return CalibratedLoss(found.loss, found.temperature) if found is not None else None

    def inputs(self) -> Iterator[Inputs]:
        """All training inputs, in batches."""
        loader = self.prepared.data.eval_loader("train", device=self.accelerator.device)
        return (self.task.arguments(inputs) for inputs, _ in loader)

    def training_inputs(self) -> Iterator[Inputs]:
        """Training inputs, shuffled and augmented: of an epoch, or of as many batches as an average looks at."""
        batches = (self.loader.batch(step) for step in range(min(BATCHES, len(self.loader))))
        return (self.task.arguments(inputs) for inputs, _ in batches)

    def batches(self) -> Iterator[Batch]:
        """The first training batches."""
        return (self.loader.batch(step) for step in range(min(SCORED_BATCHES, len(self.loader))))

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """The task's loss of a batch: ()."""
        return self.task.loss(self.task.forward(module, batch), batch[1])

    def context(self, weights: Weights, cycle: int = 1) -> StrategyContext:
        """What a strategy from these weights is made from; each cycle draws other new units."""
        return StrategyContext(
            model=lambda: self.model(weights),
            channels=lambda: self.channels,
            example=self.example,
            phases=self.phases,
            settings=self._settings(weights),
            scoring=Scoring(self.batches, self.loss),
            data=self.inputs,
            training=self.training_inputs,
            seed=self.prepared.recipe.seed + cycle - 1,
        )

    def trainer(self, strategy: Strategy, optimizer: OptimizerSpec) -> Trainer:
        """The training loop of a strategy over all its phases, on the same batches each time."""
        total, own = strategy.context.phases.total, strategy.rate_schedule
        spec = TrainSpec(
            epochs=None,
            steps=total,
            optimizer=optimizer,
            schedule=schedule_of(own, total) if own is not None else self.spec.schedule,
            clip_grad=self.spec.clip_grad,
        )
        seed, share = self.prepared.recipe.seed, self.processes.share
        torch.manual_seed(seed)
        device = self.accelerator.device
        loader = self.loader
        if self.processes.several:  # strategies look at whole batches
            loader = self.prepared.data.train_loader(device=device, seed=seed, share=share)
        return Trainer(
            strategy.module,
            loader,
            spec,
            objective=objective(self.task),
            accelerator=self.accelerator,
            speed=self.speed,
            penalty=strategy.penalty,
            processes=self.processes,
        )

    def _settings(self, weights: Weights) -> StrategySettings:
        spec, opt_2 = self.spec, self.spec.opt_2
        raised = (total_steps(opt_2.raised, len(self.loader)), opt_2.raised.gamma) if opt_2.raised else None
        controlled = opt_2.method == "controlled"
        return StrategySettings(
            form=spec.form,
            layers=spec.layers,
            contraction=ContractionSettings(
                opt_2.method,
                gamma=opt_2.gamma,
                raised=raised,
                epsilon=opt_2.epsilon,
                bound=self.metrics(self.model(weights), "train")["loss"] if controlled else float("inf"),
            ),
            share=spec.widen.share,
            widened=spec.widen.layers,
            lr_drop=spec.probe.lr_drop,
            perturbation=spec.perturbation,
            restart=RestartSettings(**dict(spec.restart)),
        )


def schedule_of(schedule: Schedule, steps: int) -> ScheduleSpec:
    """A strategy's own schedule over `steps` steps, as a recipe would say it."""
    return ScheduleSpec(name=schedule.name, warmup=round(schedule.warmup * steps))


def stalled_model(
    prepared: Prepared,
    accelerator: Accelerator,
    emit: Emit = ignore,
    stop: Stop | None = None,
    processes: Processes = ALONE,
    speed: Speed = PLAIN,
) -> Stalled:
    """theta* as the recipe's `bypass.start` says: the checkpoint, or new weights in its place.

    Raises: UsageError (a layer says no way to draw new weights).
    """
    if not prepared.task.by_sample:
        raise UsageError(f"task {prepared.recipe.task} gives no loss of each sample, which a diagnosis compares")
    seed, data = prepared.recipe.seed, prepared.data
    module = prepared.module.to(accelerator.device)
    if prepared.recipe.bypass.start == "initialisation":
        _initialise(module, seed)
    return Stalled(
        prepared,
        accelerator,
        emit,
        stop or Stop(),
        theta=copy.deepcopy(module.state_dict()),
        example=prepared.example_on(accelerator.device),
        loader=data.train_loader(device=accelerator.device, seed=seed),
        task=prepared.task,
        processes=processes,
        speed=speed,
    )


def _initialise(module: nn.Module, seed: int) -> None:
    """New weights by each layer's own `reset_parameters` (UsageError: a layer has none)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, child in module.named_modules():
            if not child._parameters and not child._buffers:
                continue
            reset = getattr(child, "reset_parameters", None)
            if not callable(reset):
                raise UsageError(f"bypass.start: initialisation: {name or 'the model'} says no way to draw its weights")
            reset()
