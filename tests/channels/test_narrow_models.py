"""Modules of other libraries that take a number from the width, and experts whose kernel takes some widths only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extcon_cli.channels import ChannelGroup, channel_groups, coverage, remove_zeros, zero_channels
from extcon_cli.channels.removal.narrow_models import NarrowMapAttention, NarrowResponseNorm

Remove = Callable[..., Any]
C = 12


def first(module: nn.Module, example: Any) -> ChannelGroup:
    return next(group for group in channel_groups(module, example).groups if group.prunable)


class Maps(nn.Module):
    """A linear map, a response norm, another linear map, on (N, H, W, 5) or (N, 5, H, W)."""

    def __init__(self, norm: nn.Module, channels_last: bool) -> None:
        super().__init__()
        self.up = nn.Linear(5, C) if channels_last else nn.Conv2d(5, C, 1)
        self.down = nn.Linear(C, 2) if channels_last else nn.Conv2d(C, 2, 1)
        self.norm = norm
        for parameter in norm.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.norm(F.gelu(self.up(x))))
        return out


def response_norm(library: str) -> nn.Module:
    if library == "transformers":
        module = pytest.importorskip("transformers.models.convnextv2.modeling_convnextv2")
        return module.ConvNextV2GRN(C)
    grn = pytest.importorskip("timm.layers.grn")
    return grn.GlobalResponseNorm(C, eps=1e-3, channels_last=library == "timm, last")


@pytest.mark.parametrize("library", ["transformers", "timm, last", "timm, first"])
def test_a_response_norm_counts_what_was_removed_also_a_second_time(library: str) -> None:
    last = library != "timm, first"
    whole = small = Maps(response_norm(library), last).eval()
    example = (torch.randn(2, 6, 7, 5) if last else torch.randn(2, 5, 6, 7),)
    assert coverage(whole, channel_groups(whole, example)) > 0.97
    for left in (8, 3):
        group = first(small, example)
        zero_channels(small, group, np.arange(group.size - left))
        small = remove_zeros(small, example).module
        assert isinstance(small.norm, NarrowResponseNorm)
        assert small.norm.weight.numel() == left == C - small.norm.missing
    zero_channels(whole, first(whole, example), np.arange(C - 3))
    torch.testing.assert_close(small(*example), whole(*example), rtol=1e-5, atol=1e-6)


def test_another_mean_over_channels_stays() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            size = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
            return x * (size / (size.mean(-1, keepdim=True) + 1e-6))

    module = Maps(Mean(), True).eval()
    reasons = [group.reason for group in channel_groups(module, (torch.randn(2, 6, 7, 5),)).groups]
    assert any("mean runs over these channels" in reason for reason in reasons)


def test_heads_and_width_of_ultralytics_attention_go_apart(remove_exactly: Remove) -> None:
    block = pytest.importorskip("ultralytics.nn.modules.block")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.psa, self.head = nn.Conv2d(3, 256, 1), block.C2PSA(256, 256, 1), nn.Conv2d(256, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.psa(self.stem(x)))
            return out

    removal = remove_exactly(Net(), (torch.randn(2, 3, 4, 4),))
    assert coverage(removal.before, removal.channels) > 0.999
    attention = removal.after.psa.m[0].attn
    assert isinstance(attention, NarrowMapAttention)
    assert (attention.num_heads, attention.proj.conv.in_channels) == (1, 64)
    assert removal.after.psa.c == attention.proj.conv.out_channels < 128


class Experts(nn.Module):
    """Two experts: the first three rows go to the one, the others to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(2, 8, C)), nn.Parameter(torch.randn(2, C, 4))

    def forward(self, x: Tensor) -> Tensor:  # (T, 8) -> (T, 4)
        ends = torch.tensor([3, x.shape[0]], dtype=torch.int32)
        return F.grouped_mm(F.relu(F.grouped_mm(x, self.up, offs=ends)), self.down, offs=ends)


@pytest.mark.parametrize("dead", [4, 5, 7, 8])
def test_as_many_channels_of_experts_go_as_their_kernel_takes(dead: int) -> None:
    module, example = Experts().eval(), (torch.randn(8, 8),)
    channels = channel_groups(module, example)
    group = next(group for group in channels.groups if group.prunable)
    zero_channels(module, group, np.arange(dead))
    decided = {group: np.arange(C) < dead}
    removal = remove_zeros(module, example, channels=channels, decided=decided)
    assert removal.filters == dead // 4 * 4
    assert removal.module.up.shape == (2, 8, C - removal.filters)


def test_a_mixture_of_experts_of_transformers_goes_whole() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=3, use_cache=False,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    example = {"input_ids": torch.arange(16).reshape(2, 8)}
    channels = channel_groups(model, example)
    assert coverage(model, channels) > 0.999
    for group in channels.groups:
        if group.prunable:
            zero_channels(model, group, np.arange(group.size // 2))
    assert remove_zeros(model, example, channels=channels).certificate.exact
