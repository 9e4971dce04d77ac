"""Least squares: the channels that stay take over from those that go, in every linear map that reads both.

For a map y = W x with inputs x split into kept K and removed R, the refit that minimises E ||W x - W'_K x_K||^2 is
W'_K = W_K + W_R H with H = G_RK (G_KK + ridge)^-1 and G = E[x x^T], the Gram matrix of the inputs (patches for a
convolution). `Compensation` applies it in parts while the removed channels shrink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.catalyst.filters import Filters
from extcon_cli.channels import Channels
from extcon_cli.channels.modules import evaluating

POSITIONS = 4096  # patches of one batch that enter a Gram matrix: enough, and bounded for large images


@dataclass(frozen=True)
class Reader:
    """A linear map that reads decided channels, and how the kept ones take over from them."""

    module: str
    owner: Tensor  # (columns,) the filter that each column of the flattened weight reads, -1: none that may go
    removed: Tensor  # (r,) columns read from decided filters
    kept: Tensor  # (k,) the other columns
    coefficients: Tensor  # (r, k) H: x_removed ~ H x_kept


@dataclass
class Compensation:
    """Moves what the decided filters do to the others, in proportion as they shrink."""

    model: nn.Module
    readers: tuple[Reader, ...]
    every: int = 1  # steps between two moves: a move costs about as much as a training step on tiny images
    pending: Tensor | float = 0.0  # (n,) shares that fell since the last move
    waited: int = 0  # steps since then

    def step(self, fallen: Tensor) -> None:
        """Note by how much of their first norm the filters fell (n,), and move it when enough steps have passed."""
        self.pending = fallen + (self.pending.to(fallen) if isinstance(self.pending, Tensor) else self.pending)
        self.waited += 1
        if self.waited >= self.every:
            self.move()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed compensation needs beside the same readers."""
        return {"pending": self.pending, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stopped."""
        self.pending, self.waited = state["pending"], state["waited"]

    @torch.no_grad()
    def move(self) -> None:
        """W_K += (W_R * fallen) H with all that is pending."""
        fallen, self.pending, self.waited = self.pending, 0.0, 0
        if not isinstance(fallen, Tensor):
            return
        for reader in self.readers:
            weight = self.model.get_submodule(reader.module).weight
            assert isinstance(weight, Tensor)
            flat = weight.reshape(weight.shape[0], -1)
            lost = fallen.to(weight)[reader.owner[reader.removed].to(weight.device)]
            moved = (flat[:, reader.removed] * lost) @ reader.coefficients.to(weight)
            change = torch.zeros_like(flat).index_add_(1, reader.kept.to(weight.device), moved)
            weight.add_(change.view_as(weight))


def fit_compensation(
    model: nn.Module,
    channels: Channels,
    filters: Filters,
    decided: Tensor,  # (n,) mask of the filters that go
    batches: Iterable[Any],
    forward: Callable[[Any], object],  # runs the model on a batch
    *,
    ridge: float = 1e-3,  # share of the Gram matrix's mean diagonal
    every: int = 1,
) -> Compensation:
    """Measure the Gram matrices on these batches, in eval mode, and solve for every reader of decided channels."""
    owners = filters.owners(channels)
    chosen: dict[str, Tensor] = {}
    for consumer in channels.consumers:
        name = consumer.weight.rpartition(".")[0]
        module = model.get_submodule(name)
        if consumer.groups == 1 and isinstance(module, (nn.Linear, nn.Conv2d)):
            owner = owners[channels.ids_along(consumer.axis)]
            taps = module.weight[0, 0].numel()
            columns = owner.repeat_interleave(taps)
            if bool(decided.cpu()[owner.clamp_min(0)][owner >= 0].any()):
                chosen[name] = columns
    grams = _grams(model, list(chosen), batches, forward)
    readers = []
    for name in grams:  # a map that is not called as a module, such as an attention's out_proj, is left as it is
        columns = chosen[name]
        gone = (columns >= 0) & decided.cpu()[columns.clamp_min(0)]
        removed, kept = gone.nonzero().flatten(), (~gone).nonzero().flatten()
        gram = grams[name].double().cpu()
        inner = gram[kept][:, kept]
        inner.diagonal().add_(ridge * gram.diagonal().mean().clamp_min(1e-12))
        coefficients = torch.linalg.solve(inner, gram[kept][:, removed]).T.float()
        readers.append(Reader(name, columns, removed, kept, coefficients))
    return Compensation(model, tuple(readers), every)


@torch.no_grad()
def _grams(
    model: nn.Module, names: list[str], batches: Iterable[Any], forward: Callable[[Any], object]
) -> dict[str, Tensor]:
    """E[x x^T] of what each module reads, summed by forward hooks over all batches."""
    grams: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(module: nn.Module, args: tuple[Any, ...]) -> None:
            rows = _read(module, args[0].float())
            gram = rows.T @ rows
            grams[name] = grams[name] + gram if name in grams else gram

        return add

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    try:
        with evaluating(model):
            for batch in batches:
                forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    return grams


def _read(module: nn.Module, inputs: Tensor) -> Tensor:
    """What one application of the map's weight reads, a row each: (positions, columns)."""
    if isinstance(module, nn.Linear):
        rows = inputs.reshape(-1, inputs.shape[-1])
    else:
        assert isinstance(module, nn.Conv2d)
        sides = module._reversed_padding_repeated_twice  # left, right, top, bottom; "same" and "valid" resolved
        patches = F.unfold(F.pad(inputs, sides), module.kernel_size, module.dilation, 0, module.stride)
        rows = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    stride = max(1, rows.shape[0] // POSITIONS)
    return rows[::stride]
