"""`prune.data: none`: what filters are scored and handed over on where no sample is at hand. It prunes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.synthesis import from_batch_norm, generated
from extcon_cli.channels.compare import Inputs, call
from extcon_cli.channels.modules import evaluating
from extcon_cli.errors import UsageError
from extcon_cli.events import Emit, Noted, Progress, phase
from extcon_cli.pipelines.running.open import Opened
from extcon_cli.tasks.base import prediction

IMAGES = 256
"""Inputs that are made of batch norm's statistics, at the most: each costs `STEPS` passes."""
STEPS = 60
FAR = 0.1
"""A loss at the end that says the inputs are not like those of training; 0.02 to 0.03 on a CIFAR-10 ResNet-20."""
TOKENS, LONGEST = 8192, 128
"""Tokens that a language model writes in all, and in one sample at the most."""


def made_inputs(opened: Opened, wanted: int, *, emit: Emit) -> list[Inputs]:
    """Batches of at most `wanted` samples, made of the model alone, on the CPU; the recipe's seed decides them.

    Raises:
        UsageError: it is no causal language model, and no batch norm tells what its inputs were like.
    """
    seed, module, example = opened.recipe.seed, opened.module, opened.example
    first, *others = example.values() if isinstance(example, Mapping) else example

    def inputs(x: Tensor) -> Inputs:
        return dict.fromkeys(example, x) if isinstance(example, Mapping) else (x,)

    def forward(x: Tensor) -> object:
        return call(module, inputs(x))

    numbered = itertools.count(1)
    if opened.recipe.task == "causal_lm" and not others and not first.is_floating_point():
        length = min(LONGEST, _most_tokens(module, first))
        count = max(1, min(wanted, TOKENS // length))

        def logits(tokens: Tensor) -> Tensor:
            return prediction(forward(tokens))

        with phase(emit, "inputs", f"Writing {count} samples of {length} tokens", length), evaluating(module):
            tokens = generated(
                logits, count, length, seed=seed, after_step=lambda: emit(Progress("inputs", next(numbered)))
            )
        return [inputs(part) for part in torch.split(tokens, max(1, 2048 // length))]
    if others or not first.is_floating_point() or not _keeps_statistics(module):
        raise UsageError(
            "prune.data none: inputs are made from batch norm's statistics, or written by a causal language model "
            f"(task: causal_lm); {type(module).__name__} allows neither: give the data, as in --data PATH"
        )
    count = min(wanted, IMAGES)
    steps = STEPS * -(-count // 64)
    with phase(emit, "inputs", f"Making {count} inputs from batch norm's statistics", steps, "step") as figures:

        def step(loss: float) -> None:
            figures["loss"] = loss
            emit(Progress("inputs", next(numbered), {"loss": loss}))

        shape = tuple(first.shape[1:])
        made = from_batch_norm(module, shape, count, steps=STEPS, seed=seed, forward=forward, after_step=step)
    if figures["loss"] > FAR:
        text = f"the inputs made stay far from batch norm's statistics ({figures['loss']:.2g}): give data if you can"
        emit(Noted(text, warning=True))
    return [inputs(x) for x in made]


def _keeps_statistics(module: nn.Module) -> bool:
    norms = (child for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm))
    return any(child.running_mean is not None for child in norms)


def _most_tokens(module: nn.Module, example: Tensor) -> int:
    """How many tokens the model takes: as its configuration says, else as many as the example has."""
    most = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    return most if isinstance(most, int) else example.shape[1]


def samples(batches: list[Inputs], most: int) -> Inputs:
    """The first `most` samples as one batch."""
    if isinstance(batches[0], Mapping):
        return {key: torch.cat([dict(batch)[key] for batch in batches])[:most] for key in batches[0]}
    return tuple(torch.cat(parts)[:most] for parts in zip(*batches, strict=True))
