"""What training minimises and what a measurement states. Models may give a tensor or the usual containers of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.errors import GateError
from extcon_cli.recipe.schema import DistillSpec, Task


def prediction(output: Any) -> Tensor:
    """The logits or values in what a model returns: a tensor, `.logits`, the key `logits` or `out`, or the first."""
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("logits", "out") if key in output), next(iter(output.values())))
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    else:
        raise GateError(f"the model returns a {type(output).__name__}; a tensor of outputs is needed")
    return prediction(output)


@dataclass(frozen=True)
class Objective:
    """The loss of a batch.

    classification: CE(z, y), with label smoothing; distilled: (1 - w) CE + w T^2 KL(softmax(t / T) || softmax(z / T)).
    regression: MSE(z, y); distilled: (1 - w) MSE(z, y) + w MSE(z, t).
    """

    task: Task
    label_smoothing: float = 0.0
    distill: DistillSpec | None = None

    def __call__(
        self,
        z: Tensor,  # (B, K) outputs
        y: Tensor,  # (B,) classes, or (B, K) targets
        t: Tensor | None = None,  # (B, K) the teacher's outputs
    ) -> Tensor:  # ()
        regression = self.task == "regression"
        z = z.float()
        if regression:
            z = z.reshape(y.shape)
            loss = functional.mse_loss(z, y)
        else:
            loss = functional.cross_entropy(z, y, label_smoothing=self.label_smoothing)
        if self.distill is None or t is None:
            return loss
        t, weight, temperature = t.float(), self.distill.weight, self.distill.temperature
        if regression:
            guide = functional.mse_loss(z, t.reshape(y.shape))
        else:
            student, teacher = ((v / temperature).log_softmax(1) for v in (z, t))
            guide = temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return (1 - weight) * loss + weight * guide


def objective(task: Task, *, label_smoothing: float = 0.0, distill: DistillSpec | None = None) -> Objective:
    """What to minimise for this task."""
    return Objective(task, label_smoothing, distill)


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], task: Task) -> dict[str, float]:
    """Mean over all samples, in eval mode: loss and accuracy (and top5 above 5 classes), or loss and r2.

    Shares are in 0..1. The loss is plain, without smoothing or distillation. The model's mode is restored.
    """
    training = model.training
    model.eval()
    try:
        return _regression(model, loader) if task == "regression" else _classification(model, loader)
    finally:
        model.train(training)


def _classification(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    count, sums, top5 = 0, None, False
    for x, y in loader:
        z = prediction(model(x)).float()
        top5 = z.shape[1] > 5
        loss = functional.cross_entropy(z, y, reduction="sum").double()
        found = [loss, (z.argmax(1) == y).sum().double()]
        if top5:
            found.append((z.topk(5, 1).indices == y[:, None]).sum().double())
        sums = torch.stack(found) if sums is None else sums + torch.stack(found)
        count += len(y)
    if sums is None:
        raise GateError("nothing was measured: the loader gave no batch")
    means = (sums / count).tolist()
    return dict(zip(("loss", "accuracy", "top5") if top5 else ("loss", "accuracy"), means, strict=True))


def _regression(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    errors, seen = [], []
    for x, y in loader:
        errors.append((prediction(model(x)).float().reshape(y.shape).double() - y.double()).square().cpu())
        seen.append(y.double().cpu())
    if not seen:
        raise GateError("nothing was measured: the loader gave no batch")
    squared, y = torch.cat(errors), torch.cat(seen)  # both (N, K)
    residual, spread = squared.mean(0), (y - y.mean(0)).square().mean(0)
    # where a target never changes: 1 if it is met, else 0
    r2 = torch.where(spread > 0, 1 - residual / spread.clamp_min(1e-300), (residual == 0).double())
    return {"loss": float(squared.mean()), "r2": float(r2.mean())}


@torch.no_grad()
def per_sample_loss(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], task: Task) -> Tensor:
    """The plain loss of every sample (N,), in the model's mode."""
    found = []
    for x, y in loader:
        z = prediction(model(x)).float()
        if task == "regression":
            found.append((z.reshape(y.shape) - y).square().reshape(len(y), -1).mean(1))
        else:
            found.append(functional.cross_entropy(z, y, reduction="none"))
    return torch.cat(found).double().cpu()


def better(task: Task, new: Mapping[str, float], old: Mapping[str, float] | None) -> bool:
    """Is `new` the better measurement: higher accuracy, then lower loss; regression: lower loss."""
    if old is None:
        return True

    def rank(metrics: Mapping[str, float]) -> tuple[float, float]:
        loss = metrics["loss"] if math.isfinite(metrics["loss"]) else math.inf
        return (0.0 if task == "regression" else -metrics["accuracy"], loss)

    return rank(new) < rank(old)
