"""What a task is: how a model is called on a batch, what it minimises, and by which figure it is judged.

A batch is a pair (inputs, targets) of trees. The inputs are a tensor, a mapping of tensors by the names of the model's
arguments, or a tuple of several arguments; a list holds samples of different sizes, as detectors take them. The first
dimension of every tensor counts samples. A task reads no data, trains nothing and knows no recipe.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from extcon_cli.channels.compare import Inputs, call
from extcon_cli.errors import GateError

Batch = tuple[Any, Any]
"""Inputs and targets."""


class Metrics(Protocol):
    """Figures over many batches: a `MetricCollection` of torchmetrics, or any class with these two methods.

    `adds_up`, where there is one, names the attributes that are sums over batches: with it several processes measure
    a part of the batches each, else every one of them measures all.
    """

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in the outputs of one batch."""

    def compute(self) -> Mapping[str, Any]:
        """The figures by name, each a number or a tensor of one."""


class Task:
    """Classification, detection, language modelling...: subclass it, and override what differs.

    Only `loss` has no default. A subclass needs no arguments to be made.
    """

    name: ClassVar[str] = ""
    """As a recipe says it."""
    figure: ClassVar[str] = "loss"
    """Which figure says how good a model is."""
    higher: ClassVar[bool] = False
    """Is more of it better?"""
    teachable: ClassVar[bool] = True
    """Can another model's outputs guide this one's? Else nothing is distilled."""

    logits: ClassVar[bool] = False
    """Are the outputs a tensor of logits, which a temperature may divide?"""

    by_sample: ClassVar[bool] = True
    """Has each sample a loss of its own? A diagnosis compares these."""

    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""
    temperature: float = 4.0
    """What both models' logits are divided by before the softmax, in `distill`."""

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """The model's outputs on a batch. Here: of its inputs, by name or by position, the tensor of predictions."""
        return prediction(raw_outputs(model, batch[0]))

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """What training minimises: (), the mean over whatever `count` counts."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def distill(self, outputs: Any, teacher: Any, targets: Any) -> Tensor:
        """How far the outputs are from a teacher's on the same batch: (). Here: mean squared error."""
        return functional.mse_loss(outputs.float(), teacher.float())

    def metrics(self) -> Metrics:
        """Figures beside the loss, before the first batch. Here: none."""
        return NoFigures()

    def count(self, targets: Any) -> float:
        """How many samples, tokens or pixels the loss of a batch is a mean over. Here: samples."""
        return samples_in(targets)

    def check(self, outputs: Any, targets: Any, classes: int | None) -> int | None:
        """Refuse a model whose outputs do not fit the targets; the number of classes it tells apart, where it shows.

        Args:
            outputs, targets: of a few samples.
            classes: that the data have; None: they do not tell.

        Raises: DataError.
        """
        return classes

    def ready(self, model: nn.Module) -> None:
        """Make a model fit for the task, once, before all else; what it computes for a batch stays. Here: nothing."""

    def arguments(self, inputs: Any) -> Inputs:
        """The inputs of a batch as the arguments of a forward pass by which models are compared."""
        return as_arguments(inputs)

    def example(self, inputs: Any) -> Inputs:
        """The same of the first two samples, to trace and measure a model with."""
        return self.arguments(first_samples(inputs, 2))

    def progress(self, outputs: Any, targets: Any) -> Mapping[str, Tensor]:
        """Figures of one training batch, cheap enough to be shown while it runs. Here: none."""
        return {}

    def sample_losses(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of each sample: (B,)."""
        parts = ((sample(outputs, at), sample(targets, at)) for at in range(samples_in(targets)))
        return torch.stack([self.loss(*part) for part in parts])

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What measurements are compared by, smaller for the better one. Here: the figure, then the loss."""
        figure, loss = (metrics[name] if math.isfinite(metrics[name]) else None for name in (self.figure, "loss"))
        first = math.inf if figure is None else -figure if self.higher else figure
        return first, math.inf if loss is None else loss

    def better(self, new: Mapping[str, float], old: Mapping[str, float] | None) -> bool:
        """Is `new` the better measurement? (`old` None: there is none yet.)"""
        return old is None or self.rank(new) < self.rank(old)

    def drop(self, before: Mapping[str, float], after: Mapping[str, float]) -> float:
        """What was lost, in points: hundredths of a figure that should rise, percent of one that should fall."""
        old, new = before[self.figure], after[self.figure]
        return 100 * ((old - new) if self.higher else (new / old - 1 if old else new))

    def tuned(self, *, label_smoothing: float = 0.0, temperature: float = 4.0) -> Task:
        """The same task for a phase of training."""
        other = copy.copy(self)
        other.label_smoothing, other.temperature = label_smoothing, temperature
        return other


class NoFigures:
    """The metrics of a task that is judged by its loss alone."""

    adds_up = ()

    def update(self, outputs: Any, targets: Any) -> None:
        pass

    def compute(self) -> Mapping[str, Any]:
        return {}


def as_arguments(inputs: Any) -> Inputs:
    """The inputs of a batch as the arguments of a forward pass: by name, or by position."""
    return inputs if isinstance(inputs, tuple | Mapping) else (inputs,)


def raw_outputs(model: nn.Module, inputs: Any) -> Any:
    """What the model gives for the inputs of a batch."""
    return call(model, as_arguments(inputs))


def prediction(output: Any) -> Tensor:
    """The logits or values in what a model returns: a tensor, `.logits`, the key `logits` or `out`, or the first."""
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "logits", None), Tensor):
        found: Tensor = output.logits
        return found
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("logits", "out") if key in output), next(iter(output.values())))
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    else:
        raise GateError(f"the model returns a {type(output).__name__}; a tensor of outputs is needed")
    return prediction(output)


def samples_in(tree: Any) -> int:
    """How many samples inputs, targets or outputs hold."""
    if isinstance(tree, list):
        return len(tree)
    return next((len(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.dim()), 0)


def sample(tree: Any, at: int) -> Any:
    """One sample of inputs, targets or outputs, as a batch of one."""
    return first_samples(tree, at + 1, at)


def first_samples(tree: Any, end: int, begin: int = 0) -> Any:
    """The samples from `begin` to `end` of inputs, targets or outputs."""
    if isinstance(tree, list):
        return tree[begin:end]
    return tree_map(lambda leaf: leaf[begin:end] if isinstance(leaf, Tensor) and leaf.dim() else leaf, tree)


def distributions(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:  # both (N, K) logits -> ()
    """T^2 KL(softmax(t / T) || softmax(z / T)), the mean over N."""
    student, guide = ((logits.float() / temperature).log_softmax(1) for logits in (outputs, teacher))
    return temperature**2 * functional.kl_div(student, guide, reduction="batchmean", log_target=True)
