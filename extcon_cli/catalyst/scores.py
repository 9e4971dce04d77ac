"""What each filter is worth: one number a filter, the larger the more it matters.

The energy is our departure from the paper, whose own race is in regulariser.py: it is invariant to rescaling a
filter, and agrees with the loss of removing one. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters, norms, parameters, sum_rows
from extcon_cli.channels.modules import evaluating

Loss = Callable[[Any], Tensor]  # a batch -> the task's loss, a scalar
AddUp = Callable[[Sequence[Tensor]], None]


def energy(
    module: nn.Module, filters: Filters, batches: Iterable[Any], loss: Loss, add_up: AddUp = lambda tensors: None
) -> Tensor:
    """E_i = sum over batches of <F_i, dL/dF_i>^2, weights frozen: (n,).

    `add_up` replaces tensors by their sums over processes, of which each has a part of every batch and of its loss.
    """
    terms = _frozen_taylor_terms(module, filters, batches, loss, add_up)
    return sum((term.square() for term in terms), torch.zeros(len(filters)))


def taylor(
    module: nn.Module, filters: Filters, batches: Iterable[Any], loss: Loss, add_up: AddUp = lambda tensors: None
) -> Tensor:
    """sum over batches of |<F_i, dL/dF_i>|, the first-order change of the loss at removal: (n,). As `energy`."""
    terms = _frozen_taylor_terms(module, filters, batches, loss, add_up)
    return sum((term.abs() for term in terms), torch.zeros(len(filters)))


def magnitude(module: nn.Module, filters: Filters) -> Tensor:
    """||F_i||_2: (n,)."""
    return norms(module, filters).cpu()


def random_scores(filters: Filters, seed: int) -> Tensor:
    """Uniform random numbers: (n,)."""
    return torch.rand(len(filters), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def taylor_terms(module: nn.Module, filters: Filters) -> Tensor:
    """<F_i, dL/dF_i> by the gradients that the parameters hold: (n,)."""
    tensors = parameters(module, filters)
    return _inner_products(tensors, [tensor.grad for tensor in tensors], filters)


def normalised(scores: Tensor, filters: Filters) -> Tensor:
    """Each score over the mean of its group, so that groups of any scale can be compared: (n,)."""
    result = scores.clone()
    for span in filters.spans():
        mean = scores[span].mean()
        if mean > 0:
            result[span] /= mean
    return result


def _frozen_taylor_terms(
    module: nn.Module, filters: Filters, batches: Iterable[Any], loss: Loss, add_up: AddUp
) -> Iterator[Tensor]:
    """<F_i, dL/dF_i> for each batch, weights frozen, batch norm in training mode, its statistics restored after."""
    tensors = parameters(module, filters)
    trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    with evaluating(module), statistics_kept(module):
        try:
            module.requires_grad_(False)
            for tensor in tensors:
                tensor.requires_grad_(True)
            for batch in batches:
                gradients = torch.autograd.grad(loss(batch), tensors, allow_unused=True)
                term = _inner_products(tensors, gradients, filters)
                add_up([term])
                yield term
        finally:
            for parameter, wanted in trainable:
                parameter.requires_grad_(wanted)


def _inner_products(tensors: Sequence[Tensor], gradients: Sequence[Tensor | None], filters: Filters) -> Tensor:
    """<F_i, G_i> of every filter: (n,)."""
    products = [
        tensor.detach() * (gradient if gradient is not None else 0.0)
        for tensor, gradient in zip(tensors, gradients, strict=True)
    ]
    return filters.sums(sum_rows(products, filters.parts)).cpu()


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms in training mode inside; their running statistics are as before afterwards."""
    layers = [child for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]
    saved = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
    for layer in layers:
        layer.training = layer.running_mean is not None
    try:
        yield
    finally:
        for layer, buffers in zip(layers, saved, strict=True):
            for name, buffer in buffers.items():
                layer.get_buffer(name).copy_(buffer)
