"""What the extensions by units share: after opt_1, Catalyst's score, flow and exact removal bring the width back.

Both methods are one engine of extension and contraction here. What the new units are is said by widen.py and mirror.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.bypass.strategies.base import ContractionReport, State, StepInfo, Strategy, StrategyContext
from extcon_cli.bypass.units import by_name, slots
from extcon_cli.catalyst.bifurcation import Flow
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.scores import energy, taylor_terms
from extcon_cli.channels import ChannelGroup, Removal, channel_groups, remove_zeros
from extcon_cli.channels.compare import Inputs
from extcon_cli.errors import GateError, UsageError

SCORED = 4
"""Where units are scored by the gradients of training: over the first part of opt_2, one in so many of its steps."""


class Narrowing:
    """Contracts a widened module to its original width: decide once by the energy, then the flow, then removal.

    Args:
        added: how many units have to go of each group of the module before it was widened.
        steps: of `step`, until the decided units are zero.
        scored: of these, how many score the units by their gradients. 0: `decide` does.

    Raises: TraceError; GateError (a widened group cannot be contracted exactly).
    """

    def __init__(
        self, wide: nn.Module, example: Inputs, added: Mapping[ChannelGroup, int], *, steps: int, scored: int = 0
    ) -> None:
        self.wide, self.example, self.steps, self.scored = wide, example, steps, scored
        self.channels = channel_groups(wide, example)
        wanted = {slots(group): number for group, number in added.items()}
        self.added = {
            group: wanted[slots(group)] for group in self.channels.groups if group.prunable and slots(group) in wanted
        }
        if len(self.added) < len(added):
            found = {slots(group) for group in self.added}
            missing = sorted({group.name for group in added if slots(group) not in found})
            raise GateError(f"the widened {', '.join(missing)} cannot be contracted exactly")
        self.filters = Filters.of(self.added)
        self.scores = torch.zeros(len(self.filters))
        self.done = 0
        self.flow: Flow | None = None

    def decide(self, batches: Iterable[Any], loss: Callable[[Any], Tensor]) -> None:
        """As many units of each group go as were added: those with the least energy, old or new."""
        self.take(energy(self.wide, self.filters, batches, loss))

    def take(self, scores: Tensor) -> None:
        """As many units of each group go as were added: those that are worth least by the scores, (n,)."""
        decided = torch.zeros(len(self.filters), dtype=torch.bool)
        for group, span in zip(self.filters.groups, self.filters.spans(), strict=True):
            decided[span] = torch.zeros(group.size, dtype=torch.bool).index_fill_(
                0, scores[span].argsort(stable=True)[: self.added[group]], True
            )
        self.flow = self._flow(decided)

    def step(self) -> None:
        """After each optimizer step; where it scores, while the gradients are still there.

        Raises: UsageError (there are none).
        """
        self.done += 1
        if self.done <= self.scored:
            self.scores += taylor_terms(self.wide, self.filters).square()
            return
        if self.flow is None:
            if not self.scores.any():
                raise UsageError("no gradient reached any unit: call .step() after backward() and before zero_grad()")
            self.take(self.scores)
        assert self.flow is not None
        self.flow.step(0.0)

    @property
    def met(self) -> bool:
        """Whether all decided units are exactly zero."""
        return self.flow is not None and self.flow.missing == 0

    def narrow(self) -> Removal:
        """The original width: what was decided is removed and nothing else. Raises: as `remove_zeros`; GateError."""
        if self.flow is None or not self.met:
            raise GateError("the added units are not at zero yet: go on until opt_2 is over")
        mask = self.flow.decided.cpu().numpy()
        spans = zip(self.filters.groups, self.filters.spans(), strict=True)
        decided = {group: mask[span] for group, span in spans}
        return remove_zeros(self.wide, self.example, channels=self.channels, decided=decided, others=False)

    def state_dict(self) -> State:
        """What a resumed narrowing needs."""
        flow = None if self.flow is None else {"decided": self.flow.decided, "state": self.flow.state_dict()}
        return {"scores": self.scores, "done": self.done, "flow": flow}

    def load_state_dict(self, state: State) -> None:
        """Go on where another one stopped."""
        self.scores, self.done = state["scores"].clone(), state["done"]
        if state["flow"] is not None:
            self.flow = self._flow(state["flow"]["decided"])
            self.flow.load_state_dict(state["flow"]["state"])

    def _flow(self, decided: Tensor) -> Flow:
        return Flow(self.wide, self.filters, decided, steps=self.steps - self.scored)


@dataclass(frozen=True)
class NarrowedReport(ContractionReport):
    """What adding units and removing as many did to the outputs."""

    contracted: bool
    added: Mapping[ChannelGroup, int]
    steps: int
    embedding: float
    contraction: float

    def to_json(self) -> dict[str, object]:
        return {
            "contracted": self.contracted,
            "added": by_name(self.added),
            "steps_to_contract": self.steps,
            "embed_difference": self.embedding,
            "difference_after_contraction": self.contraction,
        }


class Narrowed(Strategy):
    """A module with more units from the end of opt_1 at the latest; opt_2 takes as many away again."""

    added: Mapping[ChannelGroup, int]
    embedding: float
    """By how much the extension moved an output."""
    narrowing: Narrowing | None = None
    removal: Removal | None = None
    """What `contract` took away: callbacks cut the optimizer's states by its plan."""

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        if context.phases.opt_1 < 1 or (context.scoring is None and context.phases.opt_2 < 2):
            raise UsageError("units need a step of opt_1, and one of opt_2 to be scored and another to go")

    @property
    def done(self) -> bool:
        return self.narrowing is not None and self.narrowing.met

    @property
    def figures(self) -> dict[str, float]:
        return {"added": sum(self.added.values())}

    def after_step(self, step: StepInfo) -> None:
        opt_1 = self.context.phases.opt_1
        if step.index + 1 == opt_1:
            self.narrowing = self.narrowing or self.enter_opt_2()
            if scoring := self.context.scoring:
                self.narrowing.decide(scoring.batches(), lambda batch: scoring.loss(self.module, batch))
        elif self.narrowing is not None and step.index >= opt_1:
            self.narrowing.step()  # in train_3 as well: what is zero is held there

    @abstractmethod
    def enter_opt_2(self) -> Narrowing:
        """Let `module` be the one with more units; what will contract it."""

    def start_narrowing(self) -> Narrowing:
        """What contracts `module`, as it is now, over opt_2."""
        steps = self.context.phases.opt_2
        scored = 0 if self.context.scoring is not None else max(1, steps // SCORED)
        return Narrowing(self.module, self.context.example, self.added, steps=steps, scored=scored)

    def contract(self) -> NarrowedReport:
        if self.narrowing is None:
            raise GateError("nothing to contract yet: opt_1 is not over")
        self.removal = removal = self.narrowing.narrow()
        moved = removal.certificate.random.relative
        steps = self.context.phases.opt_2
        return NarrowedReport(removal.module, self.done, self.added, steps, self.embedding, moved)

    def state_dict(self) -> State:
        return {"narrowing": self.narrowing.state_dict() if self.narrowing is not None else None}

    def load_state_dict(self, state: State) -> None:
        if state["narrowing"] is not None:
            self.narrowing = self.narrowing or self.enter_opt_2()
            self.narrowing.load_state_dict(state["narrowing"])
