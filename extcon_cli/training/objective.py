"""What training minimises and what a measurement states, by what the task says of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from extcon_cli.channels import Difference
from extcon_cli.channels.compare import batch_size, compare, results
from extcon_cli.channels.modules import evaluating
from extcon_cli.channels.preserving import preserving
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
    training, figures = model.training, _Figures(task, processes)
    model.eval()
    try:
        for batch in loader:
            figures.add(task.forward(model, batch), batch)
    finally:
        model.train(training)
    return figures.found()


@torch.no_grad()
def evaluate_beside(
    first: nn.Module, second: nn.Module, loader: Iterable[Batch], task: Task
) -> tuple[dict[str, float], dict[str, float], Difference]:
    """`evaluate` for two models, and how far all that they give is apart, in one pass over both. In one process."""
    figures = _Figures(task, ALONE), _Figures(task, ALONE)

    def steps() -> Iterator[tuple[list[Tensor], list[Tensor], int]]:
        for batch in loader:
            given: list[list[Tensor]] = []
            for model, known in zip((first, second), figures, strict=True):
                with preserving(model), evaluating(model), _heard(model) as outputs:
                    torch.default_generator.manual_seed(0)  # what is drawn is drawn alike
                    known.add(task.forward(model, batch), batch)
                    given.append(results(outputs))
            yield given[0], given[1], batch_size(task.arguments(batch[0]))

    gap = compare(steps())
    return figures[0].found(), figures[1].found(), gap


@contextmanager
def _heard(model: nn.Module) -> Iterator[list[Any]]:
    """What the model gives, call by call."""
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def own_part(loader: Batches, task: Task, processes: Processes) -> Iterator[Batch]:
    """The batches that this process measures: its part, or all where the task's figures do not add up."""
    if not hasattr(task.metrics(), "adds_up"):
        processes = ALONE
    return own_batches(loader, processes)


def own_batches(loader: Batches, processes: Processes) -> Iterator[Batch]:
    """This process's part of a loader's batches, whole ones."""
    return (loader.batch(step) for step in range(len(loader))[processes.share.of(len(loader))])


class _Figures:
    """The loss and the task's figures of a model, batch by batch; those of several processes are added up."""

    def __init__(self, task: Task, processes: Processes) -> None:
        self.task, self.processes, self.metrics = task, processes, task.metrics()
        self.total: Tensor | None = None  # () of the losses, each times its count
        self.count = 0.0
        self.began = False

    def add(self, outputs: Any, batch: Batch) -> None:
        """What the task's `forward` gave for a batch."""
        if not self.began and isinstance(self.metrics, nn.Module):  # torchmetrics' own
            self.metrics.to(next(leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)))
            if self.processes.several:
                _keep_to_itself(self.metrics)
        self.began = True
        number = self.task.count(batch[1])
        if number:  # else the loss is 0 / 0
            loss = self.task.loss(outputs, batch[1]).double() * number
            self.total = loss if self.total is None else self.total + loss
        self.count += number
        self.metrics.update(outputs, batch[1])

    def found(self) -> dict[str, float]:
        """Over all batches. GateError where there was none."""
        summed, count, metrics = float(self.total) if self.total is not None else 0.0, self.count, self.metrics
        if self.processes.several and (names := getattr(metrics, "adds_up", None)) is not None:
            state = {name: getattr(metrics, name) for name in names}
            parts = self.processes.gathered((summed, count, tree_map(_on_cpu, state)))
            summed, count = sum(part[0] for part in parts), sum(part[1] for part in parts)
            for name in names:
                found = [part[2][name] for part in parts if part[2][name] is not None]
                setattr(metrics, name, reduce(add, found) if found else None)
        if not count:
            raise GateError("nothing was measured: the loader gave no batch")
        figures = {"loss": summed / count, **{name: float(value) for name, value in metrics.compute().items()}}
        return self.processes.once(lambda: figures)


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
