"""A linear read-out of wide random features of the inputs, beside a model: what the model cannot express.

The features are fixed, and the model is; only the read-out is fitted, which is a convex problem. A model that lacks
capacity leaves something over that the read-out finds; one that does not leaves next to nothing. It trains no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FEATURES = 512
SIDE = 16
"""Places of an image along one side that the features see at most: larger ones are averaged."""
LARGEST = 4096
"""Numbers of an input that the features see at most."""
RIDGE = 1e-4
"""Weight of half the squared read-out beside the mean loss."""
ITERATIONS = 40
"""Of L-BFGS."""


@dataclass(frozen=True)
class ReadOut:
    """Random ReLU features, standardised as they were on the training inputs, and what reads them."""

    mean: Tensor  # (inputs,)
    size: Tensor  # ()
    drawn: Tensor  # (inputs, FEATURES)
    shift: Tensor  # (FEATURES,)
    middle: Tensor  # (FEATURES,)
    spread: Tensor  # (FEATURES,)
    weight: Tensor  # (FEATURES, outputs)
    bias: Tensor  # (outputs,)

    def __call__(self, x: Tensor) -> Tensor:  # (N, inputs) -> (N, outputs)
        """What is added to the model's outputs."""
        raw = _raw(x, self.mean, self.size, self.drawn, self.shift)
        return _standard(raw, self.middle, self.spread) @ self.weight + self.bias


def rows(inputs: Tensor) -> Tensor | None:  # (N, ...) -> (N, inputs)
    """What the features see of a model's inputs: all numbers, of large images the means of their parts. None: they
    are no numbers, or too many."""
    if not inputs.is_floating_point():
        return None
    if inputs.dim() == 4 and max(inputs.shape[2:]) > SIDE:
        inputs = functional.adaptive_avg_pool2d(inputs, SIDE)
    return inputs.flatten(1).float() if 0 < inputs[0].numel() <= LARGEST else None


def read_out(
    x: Tensor,  # (N, inputs), of `rows`
    outputs: Tensor,  # (N, K), of the model
    loss: Callable[[Tensor], Tensor],
    *,
    seed: int = 0,
) -> ReadOut:
    """Fit one to what the model leaves over.

    Args:
        loss: the mean loss of outputs in the place of the model's: ().
    """
    generator = torch.Generator().manual_seed(seed)
    mean, size = x.mean(0), x.std().clamp_min(1e-12)
    drawn = torch.randn(x.shape[1], FEATURES, generator=generator)
    shift = torch.randn(FEATURES, generator=generator) / 2
    raw = _raw(x, mean, size, drawn, shift)
    middle, spread = raw.mean(0), raw.std(0).clamp_min(1e-6)
    features = _standard(raw, middle, spread)
    weight = torch.zeros(FEATURES, outputs.shape[1], requires_grad=True)
    bias = torch.zeros(outputs.shape[1], requires_grad=True)
    moving = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        moving.zero_grad()
        value = loss(outputs + features @ weight + bias) + RIDGE / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        moving.step(closure)  # type: ignore[no-untyped-call]
    return ReadOut(mean, size, drawn, shift, middle, spread, weight.detach(), bias.detach())


def _raw(x: Tensor, mean: Tensor, size: Tensor, drawn: Tensor, shift: Tensor) -> Tensor:
    return ((x - mean) / size @ drawn / drawn.shape[0] ** 0.5 + shift).relu()


def _standard(raw: Tensor, middle: Tensor, spread: Tensor) -> Tensor:
    """Each of mean 0 and standard deviation 1 on the training inputs, and as a share of all."""
    return (raw - middle) / spread / FEATURES**0.5
