"""The paper's way: psi(x) = D x + sigma(x) in opt_1, opt_2 brings D back, proj."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extcon_cli.bypass.contraction import ContractionSchedule, comeback
from extcon_cli.bypass.extension import Extended, extend
from extcon_cli.bypass.strategies.base import (
    ContractionReport,
    State,
    StepInfo,
    Strategy,
    StrategyContext,
    check_exact,
    outputs_moved,
)
from extcon_cli.errors import GateError


@dataclass(frozen=True)
class DiagonalReport(ContractionReport):
    """What embedding, projecting and contracting did to the outputs."""

    contracted: bool
    steps: int
    """Of opt_2, until the last site was back."""
    embedding: float
    projection: float
    contraction: float

    def to_json(self) -> dict[str, object]:
        return {
            "contracted": self.contracted,
            "steps_to_contract": self.steps,
            "embed_difference": self.embedding,
            "projection_difference": self.projection,
            "difference_after_contraction": self.contraction,
        }


class Diagonal(Strategy):
    """The extended model shares its parameters with the original one, which is the contracted one where D is back."""

    title = "Bypassing"

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        self.original = self.module
        settings = context.settings
        self.extended = extend(self.original, context.example, form=settings.form, layers=settings.layers)
        self.module = self.extended
        self.schedule: ContractionSchedule | None = None
        self.embedding = outputs_moved(self.original, self.extended, context.example)

    @property
    def deltas(self) -> list[nn.Parameter]:
        return self.extended.deltas

    @property
    def done(self) -> bool:
        return self.schedule is not None and self.schedule.met

    def penalty(self) -> Tensor | None:
        if self.context.settings.contraction.method != "penalty":
            return None
        if self.schedule is None or self.schedule.met:
            return torch.zeros((), device=self.deltas[0].device)
        return self.schedule.penalty()

    def after_step(self, step: StepInfo) -> None:
        phases = self.context.phases
        if step.index >= phases.opt_1 and not self.done:
            if self.schedule is None:
                self.schedule = self._open()
            task = float(step.loss) if self.schedule.settings.method == "controlled" else 0.0
            self.schedule.step(step.lr, task)
        if step.index + 1 >= phases.opt_1 + phases.opt_2 and not self.done:
            raise GateError("opt_2 did not meet its constraint within its steps: raise opt_2.steps or opt_2.gamma")

    def norms(self) -> tuple[float, float]:
        return size(self.extended)

    def contract(self) -> DiagonalReport:
        complaint = "the contraction is not exact: outputs differ by"
        moved = check_exact(self.module, self.original, self.context.example, complaint)
        steps, jump = (self.schedule.done, self.schedule.jump) if self.schedule is not None else (0, 0.0)
        return DiagonalReport(self.original, self.done, steps, self.embedding, jump, moved)

    def state_dict(self) -> State:
        return {"schedule": self.schedule.state_dict() if self.schedule is not None else None}

    def load_state_dict(self, state: State) -> None:
        if state["schedule"] is not None:
            self.schedule = self._open()
            self.schedule.load_state_dict(state["schedule"])

    def _open(self) -> ContractionSchedule:
        return ContractionSchedule(
            self.extended,
            self.context.settings.contraction,
            steps=self.context.phases.opt_2,
            example=self.context.example,
        )


@torch.no_grad()
def size(extended: Extended) -> tuple[float, float]:
    """||D|| over all sites, and the sum of ||A D W|| over the strict ones."""
    strict = sum(float(comeback(extended, site)) for site in extended.sites if site.strict)
    return float(torch.stack([delta.norm() for delta in extended.deltas]).norm()), strict
