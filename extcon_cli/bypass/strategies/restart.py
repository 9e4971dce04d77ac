"""A restart: the model, as it is or shrunk, is trained anew at a raised constant rate, and its states are averaged.

Nothing is extended, and nothing is preserved: neither shrinking nor averaging keeps an output. Measured instead, and
told, is how far they moved.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from extcon_cli.averaging import WeightAverage, has_statistics
from extcon_cli.bypass.strategies.base import (
    ContractionReport,
    Schedule,
    State,
    StepInfo,
    Strategy,
    StrategyContext,
    outputs_moved,
)
from extcon_cli.errors import GateError, UsageError


@dataclass(frozen=True)
class RestartReport(ContractionReport):
    """How far shrinking and averaging moved the outputs."""

    averaged: int
    shrinking: float
    averaging: float

    def to_json(self) -> dict[str, object]:
        return {
            "preserves": False,
            "averaged": self.averaged,
            "embed_difference": self.shrinking,
            "averaging_difference": self.averaging,
        }


class Restarted(Strategy):
    """From theta* itself."""

    title = "Restarting"

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        if context.training is None and has_statistics(self.module):
            raise UsageError("a restart measures batch norm's statistics anew: it needs training inputs (`data`)")
        settings = context.settings.restart
        self.lr_factor, self.rate_schedule = settings.rate, Schedule("constant", settings.warmup)
        self.average = WeightAverage(settings.average, context.phases.total)
        self.shrinking = 0.0
        self.ended = False

    @property
    def done(self) -> bool:
        return self.ended

    def after_step(self, step: StepInfo) -> None:
        self.average.note(self.module, step.index)
        self.ended = self.ended or step.index + 1 >= self.context.phases.total

    def contract(self) -> RestartReport:
        if not self.done:
            raise GateError("nothing to average yet: its steps are not over")
        training = self.context.training
        module = self.average.result(training() if training is not None else ())
        moved = outputs_moved(self.module, module, self.context.example)
        return RestartReport(module, self.average.states, self.shrinking, moved)

    def state_dict(self) -> State:
        return {"average": self.average.state_dict(), "ended": self.ended}

    def load_state_dict(self, state: State) -> None:
        self.average.load_state_dict(state["average"], self.module)
        self.ended = state["ended"]


class Shrunk(Restarted):
    """From theta* with all its weights made smaller, but those of normalisation layers."""

    title = "Shrinking and restarting"

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        before = copy.deepcopy(self.module)
        theirs = {id(own) for child in self.module.modules() if _normalises(child) for own in child.parameters()}
        with torch.no_grad():
            for parameter in self.module.parameters():
                if parameter.requires_grad and id(parameter) not in theirs:
                    parameter.mul_(context.settings.restart.shrink)
        self.shrinking = outputs_moved(before, self.module, context.example)


def _normalises(module: nn.Module) -> bool:
    """A normalisation layer, of torch or of another library: its gains begin at one, and no rate finds them again."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())
