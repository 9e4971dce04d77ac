"""Catalyst in your own training loop: it scores filters, takes them to zero and removes them.

It neither trains nor reads data. After `contract` the parameters are new tensors: make a new optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.bifurcation import Flow
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.hand_over import HandOver, hand_over
from extcon_cli.catalyst.limits import Limits
from extcon_cli.catalyst.saliency import Compare, classes_dim, compensated, drawn_labels, usual_comparison
from extcon_cli.catalyst.scores import energy, normalised, taylor_terms
from extcon_cli.catalyst.target import decide
from extcon_cli.channels import (
    Certificate,
    Channels,
    Difference,
    Masks,
    RemovalPlan,
    channel_groups,
    remove,
    remove_zeros,
)
from extcon_cli.channels.compare import Examples, Inputs, each_example, outputs
from extcon_cli.errors import UsageError


@dataclass(frozen=True)
class ContractionReport:
    """What `contract` removed, and how far the outputs moved, as measured."""

    plan: RemovalPlan
    certificate: Certificate
    removed: Masks
    """The channels that went, of every group that lost some: the decided ones, and those that were dead already."""

    @property
    def filters(self) -> int:
        """How many went."""
        return sum(int(mask.sum()) for mask in self.removed.values())

    @property
    def difference(self) -> Difference:
        """How far outputs moved on random inputs, in float32."""
        return self.certificate.random


class Catalyst:
    """Scores filters over the first `score_steps` steps, takes the decided to zero over the next `shrink_steps`.

        >>> import torch, extcon_cli
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> x, y = torch.randn(32, 4), torch.randint(2, (32,))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> catalyst = extcon_cli.Catalyst(model, (x,), ratio=0.5, score_steps=5, shrink_steps=10)
        >>> while not catalyst.done:
        ...     torch.nn.functional.cross_entropy(model(x), y).backward()
        ...     optimizer.step()
        ...     catalyst.step()  # after the optimizer's step, before the gradients are cleared
        ...     optimizer.zero_grad()
        >>> report = catalyst.contract()  # the model is smaller, and its outputs are the same
        >>> report.filters, model[0].out_features, report.certificate.exact
        (4, 4, True)

    Args:
        model: trained, on any device; only `contract` changes its architecture.
        example_inputs: the arguments of one forward pass, by position or by name, a batch of at least 2; or a list of
            several that reach other parts of the model.
        ratio: share of the prunable filters that goes.
        floor: share of each channel group that stays.
        keep: name patterns of groups that stay, such as "layer1.*".
        channels: what `channel_groups` gave for this model, perhaps with more groups frozen. None: it is traced here.
        ties: groups of these that keep the same share of their channels; then no others go.

    Raises:
        TraceError: the forward pass cannot be traced.
        UsageError: nothing in the model can be pruned.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Examples,
        ratio: float = 0.5,
        *,
        score_steps: int = 100,
        shrink_steps: int = 400,
        chi: float = 1.25,
        floor: float = 0.1,
        keep: Sequence[str] = (),
        channels: Channels | None = None,
        ties: Sequence[Tie] = (),
    ) -> None:
        if not 0 < ratio < 1:
            raise UsageError(f"ratio should lie between 0 and 1, not {ratio!r}")
        self.model = model
        self.example = example_inputs
        self.ratio = ratio
        self.score_steps = score_steps
        self.shrink_steps = shrink_steps
        self.chi = chi
        self.floor = floor
        self.keep = keep
        self.ties = ties
        self.channels = channel_groups(model, example_inputs) if channels is None else channels
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

    def score_compensated(
        self,
        inputs: Iterable[Inputs],
        loss: Callable[[Sequence[Tensor]], Tensor] | None = None,
        *,
        compare: Compare | None = None,
    ) -> None:
        """Score by what is left of the loss once the other channels stand in, with frozen weights.

        Args:
            inputs: arguments of forward passes, some hundred samples in all.
            loss: of all tensors that the model gives, a sum over samples. None: the first of them holds logits, and
                labels are drawn from them. Classes lie along dimension 1, or the last if each token id has some.
            compare: what tells groups apart: `shares` where much of many groups goes, `losses` where little is lost.
                None: `losses` where each token id has logits, as in a language model, else `shares`.
        """
        generator = torch.Generator().manual_seed(0)
        example = each_example(self.example)[0]
        classes = classes_dim(example, outputs(self.model, example)[0])
        drawn = loss or (lambda given: drawn_labels(given[0], generator, dim=classes))
        self.scores = compensated(
            self.model, self.channels, self.filters, inputs, drawn, compare=compare or usual_comparison(classes)
        )
        self._decide(relative=True)

    def hand_over(self, original: nn.Module, inputs: Iterable[Inputs], *, ridge: float = 1e-2) -> HandOver:
        """Once the decided filters are at zero: fit what stays, front to back, to what the original gives there.

            >>> import copy, torch, extcon_cli
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
            >>> x, original = torch.randn(256, 4), copy.deepcopy(model)
            >>> catalyst = extcon_cli.Catalyst(model, (x,), ratio=0.5, shrink_steps=1)
            >>> catalyst.score_compensated([(x,)])
            >>> catalyst.step()  # a flow of a single step: to zero at once, without training
            >>> catalyst.hand_over(original, [(x,)]).maps
            ('2.weight',)
            >>> catalyst.contract().filters
            4

        Args:
            original: a copy of the model from before its filters went.
            inputs: arguments of forward passes, some hundred samples in all.
            ridge: pull towards the present weights, as a share of the mean variance of what a map reads.

        Raises:
            UsageError: the decided filters are not at zero yet.
            TraceError: the forward pass cannot be traced on these inputs.
        """
        flow = self._at_zero("hand over")
        return hand_over(self.model, original, self.channels, self.filters, flow.decided, inputs, ridge=ridge)

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

    def contract(self) -> ContractionReport:
        """Remove the decided filters in place, with all that was dead before, and certify that no output changed.

        Raises:
            UsageError: the decided filters are not at zero yet.
            GateError: a decided filter cannot go, or the smaller model's outputs differ; the model is as it was.
        """
        decided = self.filters.masks(self._at_zero("contract").decided)
        removal = remove_zeros(self.model, self.example, channels=self.channels, decided=decided, others=not self.ties)
        remove(self.model, removal.plan)
        return ContractionReport(removal.plan, removal.certificate, removal.removed)

    def _at_zero(self, verb: str) -> Flow:
        """The flow, which is over."""
        if self.flow is None or not self.done:
            at = "scoring" if self.flow is None else f"step {self.flow.done} of {self.flow.steps} of the flow"
            raise UsageError(f"nothing to {verb} yet: {at}; go on training with .step() until .done")
        return self.flow

    def _decide(self, *, relative: bool = False) -> None:
        if float(self.scores.sum()) == 0.0:
            raise UsageError("no gradient reached any filter: call .step() after backward() and before zero_grad()")
        limits = Limits(floor=self.floor, keep=self.keep)
        values = self.scores if relative else normalised(self.scores, self.filters)
        chosen = decide(values, self.filters, self.ratio, limits, self.ties)
        self.flow = Flow(self.model, self.filters, chosen, self.chi, steps=self.shrink_steps)
