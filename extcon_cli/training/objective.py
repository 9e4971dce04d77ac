"""What training minimises and what a measurement states, by what the task says of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from extcon_cli.errors import GateError
from extcon_cli.recipe.schema import DistillSpec
from extcon_cli.tasks import Batch, Task


@dataclass(frozen=True)
class Objective:
    """The loss of a batch: the task's; distilled, (1 - w) of it and w of the distance to the teacher's outputs."""

    task: Task
    distill: DistillSpec | None = None

    def __call__(self, outputs: Any, targets: Any, teacher: Any = None) -> Tensor:  # -> ()
        loss = self.task.loss(outputs, targets)
        if self.distill is None or teacher is None:
            return loss
        weight = self.distill.weight
        return (1 - weight) * loss + weight * self.task.distill(outputs, teacher, targets)


def objective(task: Task, *, label_smoothing: float = 0.0, distill: DistillSpec | None = None) -> Objective:
    """What to minimise for this task."""
    temperature = distill.temperature if distill is not None else task.temperature
    return Objective(task.tuned(label_smoothing=label_smoothing, temperature=temperature), distill)


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[Batch], task: Task) -> dict[str, float]:
    """The loss and the task's figures over all samples, in eval mode; shares are in 0..1.

    The loss is plain, without smoothing or distillation. The model's mode is restored.
    """
    training = model.training
    model.eval()
    try:
        return _measured(model, loader, task)
    finally:
        model.train(training)


def _measured(model: nn.Module, loader: Iterable[Batch], task: Task) -> dict[str, float]:
    metrics, total, count = task.metrics(), None, 0.0
    for batch in loader:
        if total is None and isinstance(metrics, nn.Module):  # torchmetrics' own
            metrics.to(next(leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)))
        outputs, number = task.forward(model, batch), task.count(batch[1])
        if number:  # else the loss is 0 / 0
            loss = task.loss(outputs, batch[1]).double() * number
            total = loss if total is None else total + loss
        count += number
        metrics.update(outputs, batch[1])
    if total is None:
        raise GateError("nothing was measured: the loader gave no batch")
    return {"loss": float(total) / count, **{name: float(value) for name, value in metrics.compute().items()}}


@torch.no_grad()
def per_sample_loss(model: nn.Module, loader: Iterable[Batch], task: Task) -> Tensor:
    """The plain loss of every sample (N,), in the model's mode."""
    found = [task.sample_losses(task.forward(model, batch), batch[1]) for batch in loader]
    return torch.cat(found).double().cpu()
