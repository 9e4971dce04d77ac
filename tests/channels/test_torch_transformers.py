"""torch's own transformers: masks, padded tokens, and what was removed once removed further."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from extcon_cli.channels import (
    ChannelGroup,
    Channels,
    channel_groups,
    coverage,
    plan_removal,
    remove_zeros,
    zero_channels,
)
from extcon_cli.channels.modules import named_tensors
from extcon_cli.channels.preserving import duplicate

Remove = Callable[..., Any]
WIDTH, HEADS, INNER, TOKENS = 16, 4, 24, 6


class Encoder(nn.Module):
    """Linear, nn.TransformerEncoder, linear."""

    def __init__(self, norm: bool = False, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, batch_first=True, **options)
        self.inner = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH) if norm else None)
        self.first, self.last = nn.Linear(10, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, padding: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.last(self.inner(self.first(x), mask=mask, src_key_padding_mask=padding))
        return out


class Pair(nn.Module):
    """nn.Transformer, which makes the decoder's mask itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(10, WIDTH), nn.Linear(10, WIDTH), nn.Linear(WIDTH, 3)
        self.inner = nn.Transformer(WIDTH, HEADS, 1, 1, INNER, batch_first=True, **options)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        out: Tensor = self.last(
            self.inner(
                self.first(x),
                self.second(x),
                tgt_mask=causal,
                src_key_padding_mask=padding,
                memory_key_padding_mask=padding,
            )
        )
        return out


X = torch.randn(2, TOKENS, 10, generator=torch.Generator().manual_seed(0))
PADDING = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]).bool()
SCATTERED = torch.tensor([[1, 0, 0, 0, 1, 0], [0, 0, 1, 1, 1, 0]]).bool()
CAUSAL = nn.Transformer.generate_square_subsequent_mask(TOKENS)
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "padding": (Encoder, {"x": X, "padding": PADDING}),
    "padding and a norm": (lambda: Encoder(norm=True), {"x": X, "padding": PADDING}),
    "padding in between": (Encoder, {"x": X, "padding": SCATTERED}),
    "padding as numbers": (Encoder, {"x": X, "padding": torch.zeros(2, TOKENS).masked_fill(PADDING, -torch.inf)}),
    "a causal mask": (Encoder, {"x": X, "mask": CAUSAL}),
    "both": (lambda: Encoder(norm_first=True), {"x": X, "padding": PADDING, "mask": CAUSAL.isinf()}),
    "a pair": (Pair, {"x": X}),
    "a padded pair": (lambda: Pair(norm_first=True), {"x": X, "padding": PADDING}),
}


def halves_dead(module: nn.Module, channels: Channels, beta: float = 0.0) -> nn.Module:
    """A copy with half of every group that can go at zero, or with a bias left."""
    dead, generator = duplicate(module), np.random.default_rng(0)
    tensors = named_tensors(dead)
    for group in (group for group in channels.groups if group.prunable):
        half = generator.permutation(group.size)[: group.size // 2]
        zero_channels(dead, group, half)
        for part in (part for part in group.zeroing_slices if beta and part.parameter.endswith("bias")):
            with torch.no_grad():
                tensors[part.parameter][part.index[half].ravel()] = beta
    return dead


@torch.no_grad()
def drawn(build: Callable[[], nn.Module]) -> nn.Module:
    module = build().eval()
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.normal_()
    return module


@pytest.mark.parametrize("name", CASES)
def test_all_that_carries_channels_goes_with_masks_and_padding(name: str) -> None:
    build, example = CASES[name]
    module = drawn(build)
    channels = channel_groups(module, example)
    assert coverage(module, channels) > 0.999  # all but the bias of the last map
    removal = remove_zeros(halves_dead(module, channels), example, channels=channels)
    assert removal.certificate.exact
    assert coverage(removal.module, channel_groups(removal.module, example)) > 0.996  # and again


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["padding", "padding and a norm", "padding in between"])
def test_padded_tokens_give_what_they_gave(name: str, training: bool, grad: bool) -> None:
    """Zeros where torch packs the others into a nested tensor, else what the layers make of them."""
    build, example = CASES[name]
    module = drawn(lambda: build().requires_grad_(grad))
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, nn.MultiheadAttention):
            layer.dropout = 0.0
    dead = halves_dead(module, channels := channel_groups(module, (X,)))
    small = remove_zeros(dead, (X,), channels=channels).module
    with torch.set_grad_enabled(grad):
        expected, found = (one.train(training)(**example) for one in (dead, small))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    packed = not grad and not training and name == "padding"
    assert packed == bool((expected[PADDING] == module.last.bias).all())


def test_a_constant_of_padded_tokens_is_not_folded() -> None:
    """It is zero where they are packed."""
    build, example = CASES["padding"]
    module = drawn(build)
    dead = halves_dead(module, channel_groups(module, example), beta=0.7)
    small = remove_zeros(dead, example).module
    with torch.no_grad():
        torch.testing.assert_close(small(**example), dead(**example), rtol=1e-5, atol=1e-5)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.LayerNorm(12),
    "RMS": lambda: nn.RMSNorm(12),
    "RMS with its own eps": lambda: nn.RMSNorm(12, eps=1e-3),
}


@pytest.mark.parametrize("name", [*NORMS, "group"])
def test_a_norm_that_was_narrowed_is_narrowed_further(name: str) -> None:
    if name == "group":
        module: nn.Module = nn.Sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(1, 12), nn.ReLU(), nn.Conv2d(12, 2, 1))
        example = (torch.randn(2, 3, 6, 6),)
    else:
        module, example = nn.Sequential(nn.Linear(5, 12), NORMS[name](), nn.Linear(12, 2)), (torch.randn(2, 5),)
    once = module = drawn(lambda: module)
    for left in (9, 4):
        group = first(channel_groups(once, example))
        zero_channels(once, group, np.arange(group.size - left))
        once = remove_zeros(once, example).module
        assert vars(once[1])["missing"] == 12 - left
    zero_channels(module, first(channel_groups(module, example)), np.arange(8))
    torch.testing.assert_close(once(example[0]), module(example[0]), rtol=1e-5, atol=1e-5)


def first(channels: Channels) -> ChannelGroup:
    return next(group for group in channels.groups if group.prunable)


def test_one_value_repeated_takes_the_channels_that_it_meets(remove_exactly: Remove) -> None:
    """A mask that is expanded to the heads, merged with the batch and laid out again."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.qkv, self.out = HEADS, nn.Linear(10, 3 * WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor, kept: Tensor) -> Tensor:
            n, length, _ = x.shape
            q, k, v = self.qkv(x).view(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
            mask = kept.view(n, 1, 1, length).expand(-1, self.num_heads, -1, -1).reshape(-1, 1, length)
            scores = q @ k.transpose(-2, -1) + mask.view(n, self.num_heads, 1, length)
            out: Tensor = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
            return out

    removal = remove_exactly(Masked(), (X, torch.randn(2, TOKENS)))
    assert removal.after.num_heads == removal.after.qkv.weight.shape[0] // (3 * WIDTH // HEADS) == 2


def test_one_value_repeated_beside_a_value_without_channels_carries_none() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(10, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            out: Tensor = self.last(y + x.mean().reshape(1).expand(8) + x[..., :8])
            return out

    group, _ = channel_groups(Added(), (X,)).groups
    assert "meets a value without channels" in group.reason


def test_what_is_added_to_each_channel_leaves_none_zero() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(10, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            out: Tensor = self.last(y + x.mean((0, 1, 2)).reshape(1).expand(y.shape[-1]))
            return out

    module = Added().eval()
    channels = channel_groups(module, (X,))
    with torch.no_grad():
        module.first.weight[:3], module.first.bias[:3] = 0, 0
    assert not plan_removal(module, channels).cuts
