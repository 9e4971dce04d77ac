"""Calibration inputs without data: optimised to batch norm's statistics, or drawn from a causal language model.

Batch norm keeps the mean and variance of what it read in training. Inputs are moved by gradient descent until what it
reads of them has these again (as in ZeroQ and DeepInversion, without their further terms). A causal language model
makes its own text, a token at a time. Nothing here scores, removes or changes a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.channels.modules import evaluating

Norm = nn.modules.batchnorm._BatchNorm
BATCH = 64  # samples that are optimised together: their statistics are those of a batch
COARSE = 4  # pixels of the coarser noise that images start from


def from_batch_norm(
    module: nn.Module,
    shape: tuple[int, ...],  # of one input, a single tensor of floats
    count: int,  # of samples
    *,
    steps: int = 60,
    rate: float = 0.1,
    seed: int = 0,
    forward: Callable[[Tensor], object] | None = None,  # runs the module on a batch; None: it takes one tensor
    after_step: Callable[[float], None] = lambda loss: None,
) -> list[Tensor]:
    """Batches of inputs whose statistics at every batch norm are near its running ones: (at most BATCH, *shape) each.

    The loss of a batch is, as a mean over batch norms and channels, ((m - m_0) / s_0)^2 + (s / s_0 - 1)^2; m, s are
    mean and standard deviation of what a batch norm reads, m_0, s_0 what it keeps. A pass over the module and back
    for each of `steps`.

    Args:
        module: in any mode; not changed. It runs in eval mode, on its device.
        after_step: called with the loss after each step.

    Raises:
        ValueError: no batch norm with running statistics is reached.
    """
    place = next((parameter for parameter in module.parameters()), torch.empty(0))
    generator = torch.Generator().manual_seed(seed)
    made = []
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with evaluating(module), torch.enable_grad(), _mismatches(module) as found:
            for start in range(0, count, BATCH):
                x = _noise(min(BATCH, count - start), shape, generator).to(place).requires_grad_()
                optimizer = torch.optim.Adam([x], lr=rate)
                for step in range(steps):
                    optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
                    found.clear()
                    (forward or module)(x)
                    if not found:
                        raise ValueError("no batch norm with running statistics is reached")
                    loss = torch.stack(found).mean()
                    (x.grad,) = torch.autograd.grad(loss, [x])
                    optimizer.step()
                    after_step(float(loss.detach()))
                made.append(x.detach())
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return made


@torch.no_grad()
def generated(
    logits: Callable[[Tensor], Tensor],  # tokens (n, t) -> (n, t, vocabulary)
    count: int,  # of samples
    length: int,  # of each, in tokens
    *,
    seed: int = 0,
    device: torch.device = torch.device("cpu"),  # noqa: B008
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Text by a causal language model, each token drawn from its softmax: (count, length) int64.

    The first token is drawn from the model's own distribution after a random one, which is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = logits(torch.zeros(1, 1, dtype=torch.long, device=device)).shape[-1]
    tokens = torch.randint(vocabulary, (count, 1), generator=generator)
    for _ in range(length):
        after = logits(tokens[:, -length:].to(device))[:, -1].float().softmax(1).cpu()
        tokens = torch.cat([tokens, torch.multinomial(after, 1, generator=generator)], 1)
        after_step()
    return tokens[:, 1:].to(device)


def _noise(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Where the descent begins: half of the variance in patches, as neighbours in images and sound are alike."""
    fine = torch.randn(count, *shape, generator=generator)
    sides = shape[1:]
    if not 1 <= len(sides) <= 3:
        return fine
    coarse = torch.randn(count, shape[0], *(-(-side // COARSE) for side in sides), generator=generator)
    mode = ("linear", "bilinear", "trilinear")[len(sides) - 1]
    return (fine + F.interpolate(coarse, size=sides, mode=mode)) / 2**0.5


@contextmanager
def _mismatches(module: nn.Module) -> Iterator[list[Tensor]]:
    """How far what each batch norm reads is from what it keeps, of the forward passes inside."""
    found: list[Tensor] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Norm)
        mean, variance = layer.running_mean, layer.running_var
        if mean is None or variance is None:
            return
        over = [dim for dim in range(inputs[0].dim()) if dim != 1]
        scale = (variance + layer.eps).sqrt()
        spread = (inputs[0].var(over, correction=0) + layer.eps).sqrt() / scale
        found.append((((inputs[0].mean(over) - mean) / scale).square() + (spread - 1).square()).mean())

    handles = [layer.register_forward_pre_hook(look) for layer in module.modules() if isinstance(layer, Norm)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
