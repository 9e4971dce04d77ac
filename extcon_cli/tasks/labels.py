"""Classes and labels of a whole sample: classification (one of K) and multi-label (any of K)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from extcon_cli.errors import DataError
from extcon_cli.tasks.base import Task, distributions


class Classification(Task):
    """One class a sample. Outputs (B, K), targets (B,) int64. Cross entropy; accuracy, above 5 classes also top5.

    A teacher guides by T^2 KL(softmax(t / T) || softmax(z / T)).
    """

    name, figure, higher = "classification", "accuracy", True
    logits = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.float(), targets, label_smoothing=self.label_smoothing)

    def distill(self, outputs: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        return distributions(outputs, teacher, self.temperature)

    def metrics(self) -> Hits:
        return Hits()

    def progress(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        classes = targets.argmax(1) if targets.dim() == 2 else targets  # shares of classes, where labels were mixed
        return {"accuracy": (outputs.argmax(1) == classes).float().mean()}

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.float(), targets, reduction="none")

    def check(self, outputs: Tensor, targets: Tensor, classes: int | None) -> int | None:
        shape = tuple(outputs.shape[1:])
        if len(shape) != 1:
            raise DataError(f"a classifier should give one number a class; the model gives {shape} a sample")
        if classes is not None and classes > shape[0]:
            raise DataError(
                f"labels run up to {classes - 1}, but the model has {shape[0]} outputs (classes 0 to {shape[0] - 1}); "
                f"give it {classes} outputs (model.kwargs), or take the data it was trained for"
            )
        return shape[0]


class Hits:
    """Accuracy, and top5 where there are more than 5 classes."""

    adds_up = ("hits", "samples")

    def __init__(self) -> None:
        self.hits: Tensor | None = None  # (1 or 2,) float64: right, in the top five
        self.samples = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        found = [(outputs.argmax(1) == targets).sum().double()]
        if outputs.shape[1] > 5:
            found.append((outputs.topk(5, 1).indices == targets[:, None]).sum().double())
        self.hits = torch.stack(found) if self.hits is None else self.hits + torch.stack(found)
        self.samples += len(targets)

    def compute(self) -> Mapping[str, float]:
        shares = (self.hits / self.samples).tolist() if self.hits is not None else []
        return dict(zip(("accuracy", "top5"), shares, strict=False))


class MultiLabel(Task):
    """Any of K labels a sample. Outputs and targets (B, K), targets 0 or 1. Binary cross entropy; micro F1 at p = 0.5.

    A teacher guides by T^2 KL between the two Bernoulli distributions of each label, at temperature T.
    """

    name, figure, higher = "multi_label", "f1", True
    logits = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        soft = targets.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(outputs.float(), soft)

    def distill(self, outputs: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        student, guide = (torch.stack([z, torch.zeros_like(z)], -1).flatten(0, -2) for z in (outputs, teacher))
        return distributions(student, guide, self.temperature)

    def metrics(self) -> MicroF1:
        return MicroF1()

    def check(self, outputs: Tensor, targets: Tensor, classes: int | None) -> int | None:
        if targets.shape != outputs.shape:
            given, wanted = tuple(outputs.shape[1:]), tuple(targets.shape[1:])
            raise DataError(f"a target has {wanted} labels, the model gives {given} for a sample")
        return outputs.shape[1]


class MicroF1:
    """2 TP / (2 TP + FP + FN) over all samples and labels; 1 where nothing is there and nothing was found."""

    adds_up = ("both", "either")

    def __init__(self) -> None:
        self.both = self.either = 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        found, there = outputs > 0, targets > 0.5
        self.both += 2 * float((found & there).sum())
        self.either += float(found.sum() + there.sum())

    def compute(self) -> Mapping[str, float]:
        return {"f1": self.both / self.either if self.either else 1.0}
