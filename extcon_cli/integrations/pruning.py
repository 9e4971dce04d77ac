"""Catalyst in a training that somebody else runs: what the callbacks of all trainers share.

A trainer tells when it begins, after each optimizer step, and when its model may change; it knows nothing of filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.attach import Catalyst, ContractionReport
from extcon_cli.catalyst.carry_over import carry_over
from extcon_cli.channels import Channels
from extcon_cli.channels.compare import Inputs
from extcon_cli.errors import UsageError


@dataclass(eq=False)
class PruningCallback:
    """What the callbacks that prune are made with; each adds what its trainer asks for.

    Args:
        ratio: share of the prunable filters that goes.
        score_steps: optimizer steps over which filters are scored. None: a tenth of the training.
        shrink_steps: steps after these over which the decided ones reach zero; 0: at once. None: four tenths of it.
        chi, floor, keep: as in `Catalyst`.
    """

    ratio: float = 0.5
    _: KW_ONLY
    score_steps: int | None = None
    shrink_steps: int | None = None
    chi: float = 1.25
    floor: float = 0.1
    keep: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.pruning = Pruning(self)

    @property
    def report(self) -> ContractionReport | None:
        """What went, with its certificate; None until it is gone."""
        return self.pruning.report


class Pruning:
    """Scores, takes to zero and removes while a training goes on; the optimizer keeps the states of what is left."""

    def __init__(self, settings: PruningCallback) -> None:
        self.settings = settings
        self.catalyst: Catalyst | None = None
        self.report: ContractionReport | None = None

    def steps(self, total: float) -> tuple[int, int]:
        """Steps to score and to shrink, of a training of `total`. UsageError: they do not fit in."""
        score, shrink = self.settings.score_steps, self.settings.shrink_steps
        score = max(1, int(total // 10)) if score is None else score
        shrink = max(1, int(4 * total // 10)) if shrink is None else shrink
        if score + shrink > total:
            raise UsageError(
                f"the training takes {total:g} steps; {score} to score and {shrink} to shrink do not fit in"
            )
        return score, shrink

    def begin(
        self,
        model: nn.Module,
        example: Inputs,
        total: float,
        *,
        channels: Channels | None = None,
        ties: Sequence[Tie] = (),
    ) -> None:
        """Trace the model and find what may go.

        Args:
            total: optimizer steps that are still to come.
            channels, ties: as in `Catalyst`.
        """
        score, shrink = self.steps(total)
        asked = self.settings
        self.catalyst = Catalyst(
            model, example, asked.ratio, score_steps=score, shrink_steps=max(1, shrink), chi=asked.chi,
            floor=asked.floor, keep=asked.keep, channels=channels, ties=ties,
        )  # fmt: skip
        self.at_once = shrink == 0

    def after_step(self, *_: Any) -> None:
        """One step of the score or of the flow; after the optimizer's, before the gradients go."""
        if self.catalyst is None or self.report is not None or self.catalyst.done:
            return
        self.catalyst.step()
        if self.at_once and self.catalyst.decided is not None and not self.catalyst.done:
            self.catalyst.step()

    @property
    def due(self) -> bool:
        """Whether all that goes is at zero, and still there."""
        return self.catalyst is not None and self.report is None and self.catalyst.done

    def contract(self, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> ContractionReport:
        """Remove what is at zero, certified; the optimizers go on with the states of what is left."""
        assert self.catalyst is not None
        training, before = model.training, dict(model.named_parameters(remove_duplicate=False))
        self.report = self.catalyst.contract()
        for optimizer in optimizers:
            carry_over(optimizer, before, model, self.report.plan)
        model.train(training)
        return self.report

    def check_over(self) -> None:
        """UsageError where the training has ended before the removal."""
        if self.report is None:
            done = "while filters were scored" if self.catalyst is None or self.catalyst.flow is None else "in the flow"
            raise UsageError(f"the training ended {done}: nothing was removed; give fewer score_steps and shrink_steps")


class FirstInputs:
    """What a module is given in its first forward pass of a training: an example to trace it with.

    Args:
        module: whose forward pass is watched until then.
    """

    def __init__(self, module: nn.Module) -> None:
        self.inputs: Inputs | None = None
        self._handle = module.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training:
            return
        self._handle.remove()
        held: Inputs = {**dict(zip(_names(module), args, strict=False)), **kwargs} if kwargs else args
        self.inputs = tree_map(lambda value: value.detach() if isinstance(value, Tensor) else value, held)


def _names(module: nn.Module) -> list[str]:
    """Of the arguments of its forward pass."""
    return list(signature(module.forward).parameters)
