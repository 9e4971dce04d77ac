"""The next token, and tokens that were masked."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.errors import DataError
from extcon_cli.tasks.base import Task, distributions

IGNORED = -100
"""The label of tokens that do not count."""


class MaskedLM(Task):
    """Tokens that were masked. Outputs (B, T, V), targets (B, T) int64, -100 where no token is asked for.

    Cross entropy over the tokens that count, and its exponential, the perplexity. A teacher guides by T^2 KL of the
    two distributions of each of these tokens.
    """

    name, figure, higher = "masked_lm", "perplexity", False
    logits = True

    def ready(self, model: nn.Module) -> None:
        config = getattr(model, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # type: ignore[union-attr]  # what is kept for the next token is not asked for

    def asked(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Every place with what should be said there: (B, S, V) and (B, S)."""
        return outputs.float(), targets

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits, labels = self.asked(outputs, targets)
        total = functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / (labels != IGNORED).sum().clamp_min(1)

    def distill(self, outputs: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        (student, labels), (guide, _) = (self.asked(logits, targets) for logits in (outputs, teacher))
        counted = labels != IGNORED
        return distributions(student[counted], guide[counted], self.temperature)

    def metrics(self) -> Perplexity:
        return Perplexity(self)

    def count(self, targets: Tensor) -> float:
        return float((self.asked(targets, targets)[1] != IGNORED).sum())

    def check(self, outputs: Tensor, targets: Tensor, classes: int | None) -> int | None:
        if outputs.dim() != 3 or outputs.shape[:2] != targets.shape:
            given, wanted = tuple(outputs.shape[1:]), tuple(targets.shape[1:])
            raise DataError(f"a language model should give ({wanted}, vocabulary) a sample; this one gives {given}")
        if int(targets.max()) >= outputs.shape[2]:
            raise DataError(f"a token is {int(targets.max())}, but the model knows {outputs.shape[2]}")
        return None


class CausalLM(MaskedLM):
    """The next token: the outputs at t answer for the label at t + 1, so that the labels are the tokens themselves."""

    name = "causal_lm"

    def ready(self, model: nn.Module) -> None:
        config = getattr(model, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # type: ignore[union-attr]  # what is kept for the next token is not asked for

    def asked(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return outputs[:, :-1].float(), targets[:, 1:]


class Perplexity:
    """exp of the mean negative log-likelihood of the tokens that count."""

    adds_up = ("total", "tokens")

    def __init__(self, task: MaskedLM) -> None:
        self.task, self.total, self.tokens = task, 0.0, 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        number = self.task.count(targets)
        self.total += float(self.task.loss(outputs, targets)) * number
        self.tokens += number

    def compute(self) -> Mapping[str, float]:
        return {"perplexity": math.exp(min(self.total / self.tokens, 700.0))}
