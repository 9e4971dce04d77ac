"""Norm modules that give way to narrow ones: which do, in half precision, and in training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extcon_cli.channels import channel_groups, plan_removal, remove, zero_channels

Remove = Callable[..., Any]
C = 16


class Clamped(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input.clamp(-6, 6), self.normalized_shape, self.weight, self.bias, self.eps)


class Activated(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class ActivatedBy(nn.LayerNorm):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


class OtherEps(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, 0.1)


class Skipped(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Turned(nn.LayerNorm):
    """Leaves the dimensions in another order, which happens to have the same sizes."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.transpose(0, 1))


class Noisy(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Plain(nn.LayerNorm):
    """A subclass that adds nothing, but a cast to the type that it is in."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(torch.float32)).to(input.dtype)


class ChannelsFirst(nn.LayerNorm):
    """As Hugging Face's ConvNeXt has it."""

    data_format = "channels_last"

    def forward(self, input: Tensor) -> Tensor:
        if self.data_format == "channels_last":
            return super().forward(input)
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def rows(norm: nn.Module) -> tuple[nn.Module, tuple[Tensor]]:
    return nn.Sequential(nn.Linear(10, C), norm, nn.Linear(C, 3)).eval(), (torch.randn(4, 4, 10),)


def maps(norm: nn.Module) -> tuple[nn.Module, tuple[Tensor]]:
    return nn.Sequential(nn.Conv2d(3, C, 3), norm, nn.Conv2d(C, 3, 3)).eval(), (torch.randn(2, 3, 9, 9),)


@pytest.mark.parametrize("kind", [Clamped, Activated, ActivatedBy, OtherEps, Skipped, Turned, Noisy])
def test_a_norm_that_does_more_stays(kind: type[nn.Module], remove_exactly: Remove) -> None:
    net, example = rows(kind(C))  # type: ignore[call-arg]
    removal = remove_exactly(net, example)
    assert type(removal.after[1]) is kind
    assert "averages over these channels" in removal.group("0").reason


def first(**attributes: Any) -> nn.Module:
    norm = ChannelsFirst(C)
    vars(norm).update(attributes)
    return norm


@pytest.mark.parametrize(
    ("made", "norm"),
    [
        (rows, lambda: nn.LayerNorm(C)),
        (rows, lambda: nn.LayerNorm(C, bias=False)),
        (rows, lambda: nn.RMSNorm(C)),
        (rows, lambda: Plain(C)),
        (rows, first),
        (maps, lambda: first(data_format="channels_first")),
        (maps, lambda: LayerNorm2d(C)),
        (maps, lambda: nn.GroupNorm(1, C)),
    ],
)
def test_a_norm_that_is_nothing_else_gives_way(
    made: Callable[..., Any], norm: Callable[[], nn.Module], remove_exactly: Remove
) -> None:
    net, example = made(norm())
    nn.init.uniform_(net[1].weight, 0.5, 1.5)
    assert remove_exactly(net, example).after[1].missing == C // 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, lambda width: nn.GroupNorm(1, width)])
def test_half_precision_adds_up_in_float32(norm: Callable[[int], nn.Module], dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(10, 512), norm(512), nn.Linear(512, 3))
    net[0].weight.data *= 60  # squares beyond what float16 holds
    example = (torch.randn(2, 10),)
    channels = channel_groups(net, example)
    zero_channels(net, channels.groups[0], np.arange(0, 512, 2))
    small = copy.deepcopy(net)
    remove(small, plan_removal(net, channels))
    with torch.no_grad():
        expected = net(*example)
        found = [(expected - one.to(dtype)(example[0].to(dtype)).float()).abs().max() for one in (net, small)]
    assert small[1].weight.dtype == dtype
    assert found[1] <= 2 * found[0] + 1e-4


def trained(
    net: nn.Module, x: Tensor, optimiser: type[torch.optim.Optimizer], mask: Callable[[nn.Module], None]
) -> Any:
    """The module in float64 after three steps, `mask` called after each."""
    net = copy.deepcopy(net).double().train()
    optimizer = optimiser(net.parameters(), lr=0.01)  # type: ignore[call-arg]
    for _ in range(3):
        optimizer.zero_grad()
        net(x.double()).square().mean().backward()
        optimizer.step()
        mask(net)
    return net


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_steps_on_the_survivors_are_those_of_the_unshrunk_norm(
    norm: type[nn.Module], optimiser: type[torch.optim.Optimizer]
) -> None:
    """The zeros of the unshrunk one are held at zero, as masks hold them."""
    net, (x,) = rows(norm(C))  # type: ignore[call-arg]
    group, dead = channel_groups(net, (x,)).groups[0], np.arange(0, C, 3)
    stays = np.setdiff1d(np.arange(C), dead)
    zero_channels(net, group, dead)
    small = copy.deepcopy(net)
    remove(small, plan_removal(net, channel_groups(net, (x,))))
    wide = trained(net, x, optimiser, lambda one: zero_channels(one, group, dead))
    narrow = trained(small, x, optimiser, lambda one: None)
    torch.testing.assert_close(narrow[0].weight, wide[0].weight[stays], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(narrow[1].weight, wide[1].weight[stays], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(narrow[2].weight, wide[2].weight[:, stays], rtol=1e-9, atol=1e-9)


class InCode(nn.Module):
    """A root mean square in a model's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(C) + 0.5), 1e-2

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def test_the_gradient_of_a_rescaled_weight_is_smaller_by_a_known_factor() -> None:
    """sqrt(n / N) of what it was: documented, since the class, and so the place of its weight, stays."""
    net, (x,) = rows(InCode())
    channels = channel_groups(net, (x,))
    dead = np.arange(C // 2)
    zero_channels(net, channels.groups[0], dead)
    small = copy.deepcopy(net.double())
    remove(small, plan_removal(net, channels))
    for one in (net, small):
        one(x.double()).square().mean().backward()
    expected, found = net[1].weight.grad[C // 2 :], small[1].weight.grad
    torch.testing.assert_close(found, expected * 0.5**0.5, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(small[0].weight.grad, net[0].weight.grad[C // 2 :], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(small[2].weight.grad, net[2].weight.grad[:, C // 2 :], rtol=1e-9, atol=1e-12)
