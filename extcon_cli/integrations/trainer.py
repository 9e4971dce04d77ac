"""Catalyst and Bypass in the Trainer of transformers, while it trains and without a restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from extcon_cli.catalyst.alike import Tie
from extcon_cli.channels import channel_groups
from extcon_cli.checkpoint.huggingface.config import assign
from extcon_cli.checkpoint.huggingface.examples import example_inputs, without_cache
from extcon_cli.checkpoint.huggingface.uniform import Role, roles, solved, uniform
from extcon_cli.errors import UsageError
from extcon_cli.integrations.bypassing import BypassingCallback
from extcon_cli.integrations.pruning import PruningCallback


@dataclass(eq=False)
class CatalystCallback(PruningCallback, TrainerCallback):
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
        shrink_steps: steps after these over which the decided ones reach zero; 0: at once. None: four tenths of it.
        widths: `uniform`: layers stay alike, the model's configuration is changed with it, and `from_pretrained` opens
            what the trainer saves. `free`: any width.
        example: arguments of a forward pass by name, at least two samples. None: made from the configuration.
        chi, floor, keep: as in `Catalyst`.
    """

    _: KW_ONLY
    widths: Literal["uniform", "free"] = "uniform"
    example: Mapping[str, torch.Tensor] | None = None
    _roles: tuple[Role, ...] = field(default=(), init=False)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Trace the model and find what may go.

        Raises:
            UsageError: the training is too short, is resumed, keeps another state at its end, or is distributed.
        """
        self.pruning.steps(state.max_steps)
        _check(args, state)
        if args.load_best_model_at_end:
            raise UsageError("load_best_model_at_end may bring back the larger model: set it to False")
        model = kwargs["model"]
        without_cache(model)
        example = _example(model, self.example)
        channels, ties = channel_groups(model, example), list[Tie]()
        if self.widths == "uniform":
            self._roles = roles(model, channels, example)
            channels = uniform(channels, self._roles)
            ties = [Tie(role.groups, role.steps, role.allowed) for role in self._roles]
        self.pruning.begin(model, example, state.max_steps, channels=channels, ties=ties)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """One step of the score or of the flow, after the optimizer's and before the gradients go; then the removal."""
        self.pruning.after_step()
        if self.pruning.due:
            model: nn.Module = kwargs["model"]
            report = self.pruning.contract(model, [_plain(kwargs["optimizer"])])
            if self._roles:
                config: Any = model.config
                assign(config, solved(model, self._roles, report.plan, _example(model, self.example)))


@dataclass(eq=False)
class BypassCallback(BypassingCallback, TrainerCallback):
    """Takes the model that a `Trainer` trains out of a plateau: extended, trained, and brought back, in one training.

        >>> from transformers import Trainer
        >>> from extcon_cli.integrations import BypassCallback
        >>> trainer = Trainer(model, args, train_dataset=data, callbacks=[BypassCallback(opt_1=100, opt_2=100)])
        >>> trainer.train()

    Args:
        method: `radius` or `proximal` (a diagonal in the activations), `widen`, or `revive`; `mirror` needs a model
            that is called by position.
        start: optimizer step at which it begins.
        opt_1, opt_2: steps in the larger space, and on the way back.
        example: as in `CatalystCallback`.
        layers, share, seed: as in `Bypass`.
        data: all training inputs (revive). None: what the trainer loads.
    """

    _: KW_ONLY
    example: Mapping[str, torch.Tensor] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """UsageError: the training is too short, is resumed or distributed."""
        self.bypassing.check(state.max_steps)
        _check(args, state)
        without_cache(kwargs["model"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Extend the model, where it is time."""
        if self.bypassing.wanted:
            model, loader = kwargs["model"], kwargs.get("train_dataloader")

            def inputs() -> Iterator[Mapping[str, torch.Tensor]]:
                device = next(model.parameters()).device
                for batch in loader or ():
                    yield {name: value.to(device) for name, value in batch.items() if "label" not in name}

            self.bypassing.begin(model, _example(model, self.example), _plain(kwargs["optimizer"]), data=inputs)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """One step of opt_1 or opt_2, after the optimizer's and before the gradients go; then the contraction."""
        optimizer = _plain(kwargs["optimizer"])
        self.bypassing.after_step(optimizer)
        if self.bypassing.due:
            self.bypassing.contract(optimizer)


def _check(args: TrainingArguments, state: TrainerState) -> None:
    if state.global_step:
        raise UsageError("a training that goes on from a checkpoint cannot be changed from its middle")
    if args.world_size > 1 or args.n_gpu > 1:
        raise UsageError("the callback works in one process on one device")


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """Without what accelerate wraps it in."""
    found: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return found


def _example(model: nn.Module, given: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in (given or example_inputs(model)).items()}
