"""What training minimises and what a measurement states, by what the task says of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from extcon_cli.errors import GateError
from extcon_cli.processes import ALONE, Processes
from extcon_cli.recipe.schema import DistillSpec
from extcon_cli.tasks import Batch, Task


class Batches(Protocol):
    """Where batches come from: a pure function of the step."""

    def __len__(self) -> int: ...

    def batch(self, step: int) -> Batch: ...

    @property
    def batch_size(self) -> int: ...


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
def evaluate(model: nn.Module, loader: Iterable[Batch], task: Task, processes: Processes = ALONE) -> dict[str, float]:
    """The loss and the task's figures over all samples, in eval mode; shares are in 0..1.

    The loss is plain, without smoothing or distillation. The model's mode is restored.

    Args:
        loader: of several processes, what `own_part` gives each of them.
    """
    training = model.training
    model.eval()
    try:
        return _measured(model, loader, task, processes)
    finally:
        model.train(training)


def own_part(loader: Batches, task: Task, processes: Processes) -> Iterator[Batch]:
    """The batches that this process measures: its part, or all where the task's figures do not add up."""
    if not hasattr(task.metrics(), "adds_up"):
        processes = ALONE
    return own_batches(loader, processes)


def own_batches(loader: Batches, processes: Processes) -> Iterator[Batch]:
    """This process's part of a loader's batches, whole ones."""
    return (loader.batch(step) for step in range(len(loader))[processes.share.of(len(loader))])


def _measured(model: nn.Module, loader: Iterable[Batch], task: Task, processes: Processes) -> dict[str, float]:
    metrics, total, count = task.metrics(), None, 0.0
    for batch in loader:
        if total is None and isinstance(metrics, nn.Module):  # torchmetrics' own
            metrics.to(next(leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)))
            if processes.several:
                _keep_to_itself(metrics)
        outputs, number = task.forward(model, batch), task.count(batch[1])
        if number:  # else the loss is 0 / 0
            loss = task.loss(outputs, batch[1]).double() * number
            total = loss if total is None else total + loss
        count += number
        metrics.update(outputs, batch[1])
    summed = float(total) if total is not None else 0.0
    if processes.several and (names := getattr(metrics, "adds_up", None)) is not None:
        state = {name: getattr(metrics, name) for name in names}
        parts = processes.gathered((summed, count, tree_map(_on_cpu, state)))
        summed, count = sum(part[0] for part in parts), sum(part[1] for part in parts)
        for name in names:
            found = [part[2][name] for part in parts if part[2][name] is not None]
            setattr(metrics, name, reduce(add, found) if found else None)
    if not count:
        raise GateError("nothing was measured: the loader gave no batch")
    figures = {"loss": summed / count, **{name: float(value) for name, value in metrics.compute().items()}}
    return processes.once(lambda: figures)


def _keep_to_itself(metrics: nn.Module) -> None:
    """torchmetrics adds up over all processes by itself; here each of them has measured everything."""
    for part in metrics.modules():
        if hasattr(part, "sync_on_compute"):
            vars(part)["sync_on_compute"] = False


def _on_cpu(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf


@torch.no_grad()
def per_sample_loss(model: nn.Module, loader: Iterable[Batch], task: Task, processes: Processes = ALONE) -> Tensor:
    """The plain loss of every sample (N,), in the model's mode; `loader` gives this process's part of the batches."""
    found = [task.sample_losses(task.forward(model, batch), batch[1]).double().cpu() for batch in loader]
    return torch.cat([losses for part in processes.gathered(found) for losses in part])
