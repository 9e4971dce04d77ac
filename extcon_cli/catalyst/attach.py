"""Catalyst in your own training loop.

    catalyst = Catalyst(model, (images,), ratio=0.5)
    for images, labels in loader:
        criterion(model(images), labels).backward()
        optimizer.step()
        catalyst.step()                  # after the optimizer's step, before the gradients are cleared
        optimizer.zero_grad()
    contraction = catalyst.contract()    # the model is smaller, its outputs are the same

It neither trains nor reads data. After `contract` the parameters are new tensors: make a new optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.bifurcation import Flow
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.scores import energy, normalised, taylor_terms
from extcon_cli.catalyst.target import decide
from extcon_cli.channels import Difference, RemovalPlan, channel_groups, difference, plan_removal, remove
from extcon_cli.channels.compare import EXACT, random_batches
from extcon_cli.errors import GateError, UsageError


@dataclass(frozen=True)
class Contraction:
    """What `contract` did, and how far the outputs moved, as measured."""

    plan: RemovalPlan
    difference: Difference
    filters: int  # how many went


class Catalyst:
    """Scores filters over the first `score_steps` steps, takes the decided to zero over the next `shrink_steps`.

    Args:
        model: trained, on any device; only `contract` changes its architecture.
        example_inputs: positional arguments of one forward pass, a batch of at least 2.
        ratio: share of the prunable filters that goes.
        floor: share of each channel group that stays.
        keep: name patterns of groups that stay, such as "layer1.*".

    Raises:
        TraceError: the forward pass cannot be traced.
        UsageError: nothing in the model can be pruned.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Any, ...],
        ratio: float = 0.5,
        *,
        score_steps: int = 100,
        shrink_steps: int = 400,
        chi: float = 1.25,
        floor: float = 0.1,
        keep: Sequence[str] = (),
    ) -> None:
        if not 0 < ratio < 1:
            raise UsageError(f"ratio should lie between 0 and 1, not {ratio!r}")
        self.model, self.example, self.ratio = model, example_inputs, ratio
        self.score_steps, self.shrink_steps, self.chi, self.floor, self.keep = (
            score_steps,
            shrink_steps,
            chi,
            floor,
            keep,
        )
        self.channels = channel_groups(model, example_inputs)
        self.filters = Filters.of(self.channels.groups)
        if not len(self.filters):
            reasons = "; ".join(sorted({group.reason for group in self.channels.groups}))
            raise UsageError(f"no filter of this model can be pruned: {reasons or 'no linear map was found'}")
        self.scores = torch.zeros(len(self.filters))
        self.steps = 0
        self.flow: Flow | None = None

    @property
    def decided(self) -> Tensor | None:
        """Mask of the filters that go (n,), None while they are being scored."""
        return None if self.flow is None else self.flow.decided

    @property
    def done(self) -> bool:
        """Whether every decided filter is exactly zero."""
        return self.flow is not None and self.flow.missing == 0

    def score(self, batches: Iterable[Any], loss: Callable[[Any], Tensor]) -> None:
        """Score with frozen weights instead of along the training steps: sharper, for one pass over `batches`."""
        self.scores = energy(self.model, self.filters, batches, loss)
        self._decide()

    @torch.no_grad()
    def step(self) -> None:
        """Call after every optimizer step, while the gradients are still there."""
        if self.flow is not None:
            self.flow.step(0.0)
            return
        self.scores += taylor_terms(self.model, self.filters).square()
        self.steps += 1
        if self.steps >= self.score_steps:
            self._decide()

    def contract(self) -> Contraction:
        """Remove the dead filters in place and measure that no output changed.

        Raises:
            UsageError: the decided filters are not at zero yet.
            GateError: the smaller model's outputs differ; the model is as it was.
        """
        if not self.done:
            at = "scoring" if self.flow is None else f"step {self.flow.done} of {self.flow.steps} of the flow"
            raise UsageError(f"nothing to contract yet: {at}; go on training with .step() until .done")
        before = copy.deepcopy(self.model)
        removal = plan_removal(self.model, self.channels)
        trial = copy.deepcopy(self.model)
        remove(trial, removal)
        measured = difference(before, trial, random_batches(self.example))
        if measured.relative > EXACT:
            raise GateError(
                f"removal would change the outputs by {measured.relative:.1e} of the largest; nothing was removed"
            )
        remove(self.model, removal)
        return Contraction(removal, measured, int(self.flow.decided.sum()) if self.flow else 0)

    def _decide(self) -> None:
        if float(self.scores.sum()) == 0.0:
            raise UsageError("no gradient reached any filter: call .step() after backward() and before zero_grad()")
        chosen = decide(
            normalised(self.scores, self.filters), self.filters, self.ratio, floor=self.floor, keep=self.keep
        )
        self.flow = Flow(self.model, self.filters, chosen, self.chi, steps=self.shrink_steps)
