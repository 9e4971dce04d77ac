"""The training of one strategy over opt_1, opt_2 and train_3, each with an optimizer of its own where one is asked for.

The probe and the branches of `bypass` train alike through here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from extcon_cli.bypass.strategies import EXTENSIONS, Strategy
from extcon_cli.bypass.strategies.base import State, StepInfo
from extcon_cli.pipelines.bypassing.stalled import Stalled
from extcon_cli.recipe.schema import OptimizerSpec
from extcon_cli.training.loop import Step, Trainer


@dataclass(frozen=True)
class PhasedTraining:
    """A strategy with the loop that trains its module."""

    strategy: Strategy
    trainer: Trainer
    optimizers: Mapping[int, OptimizerSpec]
    """By the step that each begins with."""

    def after_step(self, step: Step) -> None:
        """What follows each step of the loop: the strategy's part, and the next phase's optimizer."""
        self.strategy.after_step(StepInfo(step.index, step.lr, step.loss))
        if not step.last and step.index + 1 in self.optimizers:
            self.trainer.switch(self.optimizers[step.index + 1], self.strategy.module)


def phased_training(
    stalled: Stalled,
    name: str,
    strategy: Strategy,
    *,
    lr_factor: float = 1.0,
    done: int = 0,
    state: State | None = None,
) -> PhasedTraining:
    """Ready for the first step, or for the one after `done`, where the strategy had this state.

    Args:
        name: of the strategy; the optimizers of single phases are for extensions without a schedule of their own.
    """
    spec, phases = stalled.spec, strategy.context.phases
    starts = (0, phases.opt_1, phases.opt_1 + phases.opt_2)
    asked = (spec.opt_1.optimizer, spec.opt_2.optimizer, spec.train_3.optimizer)
    optimizers = {}
    for start, own in zip(starts, asked, strict=True):
        chosen = (own if name in EXTENSIONS and strategy.rate_schedule is None else None) or spec.optimizer
        optimizers[start] = chosen.model_copy(update={"lr": chosen.lr * strategy.lr_factor * lr_factor})
    running = optimizers[max(start for start in optimizers if start <= done)]
    trainer = stalled.trainer(strategy, running)
    if state is not None:  # after the trainer was made: it carries on with the same list of parameters
        strategy.load_state_dict(state)
        trainer.switch(running, strategy.module)
    return PhasedTraining(strategy, trainer, optimizers)
