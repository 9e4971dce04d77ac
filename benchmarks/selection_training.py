"""How selection.py trains: half of the loss from the original, a cosine, and the optimizers and losses it compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel


def tune(
    model: nn.Module,
    lessons: Iterator[tuple[Tensor, Tensor, Tensor]],
    steps: int,
    lr: float,
    *,
    before: Callable[[], None] | None = None,  # each of the optimizer's steps, with the gradients at hand
    after: Callable[[], None] | None = None,
    constant: bool = False,
    training: str = "sgd",
    teacher: nn.Module | None = None,  # whose blocks give features, where these are matched
) -> None:
    """Train with half of the loss from the teacher, at a temperature of 4 or, by a `training` of t8, another."""
    heat = float(training[1:]) if training[1:].isdecimal() else 4.0
    model.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(model, training, lr)
    rates = [group["lr"] for group in optimizer.param_groups]
    average = AveragedModel(model, use_buffers=True) if training == "average" else None
    model.train()
    seen, wanted = (Features(model), Features(teacher)) if teacher is not None else (None, None)
    for step, (x, y, guide) in enumerate(lessons):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1.0 if constant else 0.5 * (1 + math.cos(math.pi * step / steps)))
        with fast():
            z = model(x)
        z = z.float()
        pair = (z / heat).log_softmax(1), (guide / heat).log_softmax(1)
        taught = heat**2 * F.kl_div(*pair, reduction="batchmean", log_target=True)
        loss = 0.5 * F.cross_entropy(z, y) + 0.5 * taught
        if teacher is not None and seen is not None and wanted is not None:
            with torch.no_grad(), fast():
                teacher(x)
            loss = loss + seen.apart(wanted)
        loss.backward()
        if before is not None:
            before()
        if constant:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if after is not None:
            after()
        if average is not None and 2 * step >= steps:
            average.update_parameters(model)
    for features in (seen, wanted):
        if features is not None:
            features.detach()
    if average is not None and steps > 1:
        model.load_state_dict(average.module.state_dict())
    model.eval().to(memory_format=torch.contiguous_format)


def optimizer_of(model: nn.Module, training: str, lr: float) -> torch.optim.Optimizer:
    """SGD, or what `training` names; AdamW's rate is a tenth of SGD's."""
    if training == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr / 10, weight_decay=0.01)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


class Features:
    """What the residual blocks of a model give; their streams are as wide as the original's."""

    def __init__(self, model: nn.Module) -> None:
        self.held: list[Tensor] = []
        blocks = [block for block in model.modules() if hasattr(block, "conv2")]
        self.hooks = [block.register_forward_hook(self._keep) for block in blocks]
        self.count = len(blocks)

    def _keep(self, _module: nn.Module, _inputs: tuple[Tensor, ...], given: Tensor) -> None:
        self.held = [*self.held, given] if len(self.held) < self.count else [given]

    def apart(self, wanted: Features) -> Tensor:
        """The mean over blocks of the squared difference over the variance."""
        pairs = zip(self.held, wanted.held, strict=True)
        return torch.stack([F.mse_loss(now.float(), then.float()) / then.float().var() for now, then in pairs]).mean()

    def detach(self) -> None:
        for hook in self.hooks:
            hook.remove()


def fast() -> torch.autocast:
    """bfloat16 where the processor multiplies matrices of it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())
