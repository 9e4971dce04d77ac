"""Catalyst in the Trainer of transformers: scored, taken to zero and removed while it trains, without a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.attach import Catalyst, ContractionReport
from extcon_cli.catalyst.carry_over import carry_over
from extcon_cli.channels import channel_groups
from extcon_cli.checkpoint.huggingface.config import assign
from extcon_cli.checkpoint.huggingface.examples import example_inputs, without_cache
from extcon_cli.checkpoint.huggingface.uniform import Role, roles, solved, uniform
from extcon_cli.errors import UsageError


class CatalystCallback(TrainerCallback):
    """Prunes the model that a `Trainer` trains: the decided filters reach zero, go, and training goes on.

        >>> from transformers import Trainer
        >>> from extcon_cli.integrations import CatalystCallback
        >>> trainer = Trainer(model, args, train_dataset=data, callbacks=[CatalystCallback(ratio=0.25)])
        >>> trainer.train()
        >>> trainer.save_model("small")  # plain from_pretrained opens it

    After the removal the optimizer goes on with the states of what is left; the schedule does not notice.

    Args:
        ratio: share of the prunable filters that goes.
        score_steps: optimizer steps over which filters are scored. None: a tenth of the training.
        shrink_steps: steps after these over which the decided ones reach zero. None: four tenths of it.
        widths: `uniform`: layers stay alike, the model's configuration is changed with it, and `from_pretrained` opens
            what the trainer saves. `free`: any width.
        example: arguments of a forward pass by name, at least two samples. None: made from the configuration.
        chi, floor, keep: as in `Catalyst`.

    Attributes:
        report: what went, with its certificate; None until it is gone.
    """

    def __init__(
        self,
        ratio: float = 0.5,
        *,
        score_steps: int | None = None,
        shrink_steps: int | None = None,
        widths: Literal["uniform", "free"] = "uniform",
        example: Mapping[str, torch.Tensor] | None = None,
        chi: float = 1.25,
        floor: float = 0.1,
        keep: Sequence[str] = (),
    ) -> None:
        self.ratio, self.widths, self.example = ratio, widths, example
        self.score_steps, self.shrink_steps = score_steps, shrink_steps
        self.chi, self.floor, self.keep = chi, floor, keep
        self.catalyst: Catalyst | None = None
        self.report: ContractionReport | None = None
        self._roles: tuple[Role, ...] = ()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Trace the model and find what may go.

        Raises:
            UsageError: the training is too short, is resumed, keeps another state at its end, or is distributed.
        """
        score = self.score_steps if self.score_steps is not None else max(1, state.max_steps // 10)
        shrink = self.shrink_steps if self.shrink_steps is not None else max(1, 4 * state.max_steps // 10)
        if score + shrink > state.max_steps:
            raise UsageError(
                f"the training takes {state.max_steps} steps; {score} to score and {shrink} to shrink do not fit in"
            )
        if state.global_step:
            raise UsageError("a training that goes on from a checkpoint cannot be pruned from its middle")
        if args.load_best_model_at_end:
            raise UsageError("load_best_model_at_end may bring back the larger model: set it to False")
        if args.world_size > 1 or args.n_gpu > 1:
            raise UsageError("the callback works in one process on one device")
        model = kwargs["model"]
        without_cache(model)
        example = self._example(model)
        channels, ties = channel_groups(model, example), list[Tie]()
        if self.widths == "uniform":
            self._roles = roles(model, channels, example)
            channels = uniform(channels, self._roles)
            ties = [Tie(role.groups, role.steps, role.allowed) for role in self._roles]
        self.catalyst = Catalyst(
            model, example, self.ratio, score_steps=score, shrink_steps=shrink, chi=self.chi, floor=self.floor,
            keep=self.keep, channels=channels, ties=ties,
        )  # fmt: skip

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """One step of the score or of the flow, after the optimizer's and before the gradients go; then the removal."""
        if self.catalyst is None or self.report is not None:
            return
        self.catalyst.step()
        if self.catalyst.done:
            optimizer = kwargs["optimizer"]  # accelerate wraps it
            self.report = self._contract(kwargs["model"], getattr(optimizer, "optimizer", optimizer))

    def _contract(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> ContractionReport:
        assert self.catalyst is not None
        training, before = model.training, dict(model.named_parameters(remove_duplicate=False))
        report = self.catalyst.contract()
        if self._roles:
            assign(model.config, solved(model, self._roles, report.plan, self._example(model)))
        carry_over(optimizer, before, model, report.plan)
        model.train(training)
        return report

    def _example(self, model: nn.Module) -> dict[str, torch.Tensor]:
        device = next(model.parameters()).device
        return {name: value.to(device) for name, value in (self.example or example_inputs(model)).items()}
