"""Models that once crashed the analysis, or broke after a removal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

from extcon_cli.channels import Channels, channel_groups, difference, plan_removal, remove, remove_zeros, zero_channels
from extcon_cli.errors import TraceError

Remove = Callable[..., Any]


class Images(nn.Module):
    """conv, ReLU, conv, ReLU, conv; `first` and `middle` change what goes in and what is in between."""

    def __init__(self, first: Callable[..., Tensor] | None = None, middle: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 3)
        self.first, self.middle = first, middle
        self.scale = nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: Tensor) -> Any:
        x = self.first(self, x) if self.first else x
        y = self.b(self.a(x).relu()).relu()
        return self.c(self.middle(self, y) if self.middle else y)


EXAMPLE = (torch.randn(2, 3, 12, 12),)


def named(channels: Channels) -> dict[str, str]:
    return {group.name: group.reason for group in channels.groups}


@pytest.mark.parametrize(
    "first",
    [
        lambda m, x: x - x.mean((2, 3), keepdim=True),
        lambda m, x: x * m.scale.mean(),
        lambda m, x: x - x.mean(),
        lambda m, x: x * torch.ones(3, 1, 1).mean(0, keepdim=True),
    ],
)
def test_means_of_inputs_and_of_parameters(first: Callable[..., Tensor], remove_exactly: Remove) -> None:
    assert remove_exactly(Images(first), EXAMPLE).gone > 0


def test_a_number_taken_out_of_a_tensor(remove_exactly: Remove) -> None:
    removal = remove_exactly(Images(middle=lambda m, y: y * y.max().item()), EXAMPLE)
    assert named(removal.channels)["a"] == ""
    assert "max" in named(removal.channels)["b"]


def test_a_number_taken_out_of_a_tensor_leaves_zeros_zero(remove_exactly: Remove) -> None:
    removal = remove_exactly(
        Images(lambda m, x: x * (1 + x.mean().item()), lambda m, y: y * m.scale.sum().item()), EXAMPLE
    )
    assert named(removal.channels) == {"a": "", "b": "", "c": "is an output of the model"}


def test_a_size_that_depends_on_numbers_is_refused_with_its_line() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            chosen = torch.where(x[:, 0] > 0)[0]
            return self.c(x.index_add(0, chosen, self.b(x[chosen]).relu()))

    with pytest.raises(TraceError, match=r"depends on the numbers.*test_hard_models\.py"):
        channel_groups(Chosen(), (torch.randn(5, 6),))


@dataclass
class Answer:
    logits: Tensor
    hidden: list[Tensor]


class Answers(nn.Module):
    def __init__(self, middle: Callable[..., Tensor]) -> None:
        super().__init__()
        self.net = Images(middle=middle)

    def forward(self, x: Tensor) -> Answer:
        y = self.net(x)
        return Answer(y, [y.mean((2, 3))])


@pytest.mark.parametrize("middle", [lambda m, y: y, lambda m, y: y * torch.ones(1).item() ** y.sum().item()])
def test_a_dataclass_comes_out(middle: Callable[..., Tensor]) -> None:
    net = Answers(middle).eval()
    channels = channel_groups(net, EXAMPLE)
    group = next(group for group in channels.groups if group.name == "net.a")
    assert group.prunable
    zero_channels(net, group, np.arange(3))
    small = copy.deepcopy(net)
    remove(small, plan_removal(net, channels))
    assert small.net.a.out_channels == 5
    found = difference(net, small, [EXAMPLE])
    assert (found.outputs, found.relative < 1e-5) == (2, True)


@pytest.mark.parametrize("computed", [lambda layer: prune.ln_structured(layer, "weight", 0.5, 2, 0), weight_norm])
def test_old_parametrisations_are_taken(computed: Callable[..., Any]) -> None:
    net = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Conv2d(4, 4, 1), nn.ReLU()))).eval()
    computed(net[2])
    channels = channel_groups(net, (torch.randn(2, 4, 5, 5),))
    assert next(group for group in channels.groups if group.name == "4").prunable
    zero_channels(net, next(group for group in channels.groups if group.name == "4"), np.arange(2))
    remove(net, plan_removal(net, channels))
    assert net[4].out_channels == 2


class Squeezed(nn.Module):
    def __init__(self, squeeze: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.squeeze = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4), squeeze

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.squeeze(F.adaptive_avg_pool2d(self.b(self.a(x).relu()).relu(), 1)))


@pytest.mark.parametrize(
    ("squeeze", "left"),
    [
        (lambda y: y.squeeze(), 2),
        (lambda y: y.squeeze(1).squeeze(-1).squeeze(-1), 2),
        (lambda y: y.squeeze((1, 2, 3)), 2),
        (lambda y: y.squeeze(-1).squeeze(-1), 1),
        (lambda y: y.flatten(1), 1),
    ],
)
def test_where_a_single_channel_would_be_squeezed_away_two_stay(
    squeeze: Callable[[Tensor], Tensor], left: int, remove_exactly: Remove
) -> None:
    def kill(module: nn.Module, channels: Channels) -> None:
        for group in channels.groups:
            if group.prunable:
                zero_channels(module, group, np.arange(group.size - 1))

    after = remove_exactly(Squeezed(squeeze), EXAMPLE, kill, sizes=(2, 3)).after
    assert (after.a.out_channels, after.b.out_channels) == (1, left)


def test_a_padding_mask_may_come_later(remove_exactly: Remove) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
            self.i, self.t, self.o = nn.Linear(10, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return self.o(self.t(self.i(x), src_key_padding_mask=mask))

    removal = remove_exactly(Tokens(), (torch.randn(2, 6, 10),))
    x, mask = torch.randn(2, 6, 10), torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]).bool()
    with torch.no_grad():
        expected, found = removal.before(x, mask), removal.after(x, mask)
    torch.testing.assert_close(found[~mask], expected[~mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_memory_and_attributes_of_parameters_are_kept(order: torch.memory_format) -> None:
    net = Images().to(memory_format=order)
    net.a.weight.tag = net.b.bias.tag = "no decay"  # type: ignore[attr-defined]
    channels = channel_groups(net, EXAMPLE)
    for group in channels.groups[:2]:
        zero_channels(net, group, np.arange(3))
    after: Any = remove_zeros(net, EXAMPLE, channels=channels).module
    assert after.b.weight.shape == (3, 5, 3, 3)
    assert after.b.weight.is_contiguous(memory_format=order)
    assert (after.a.weight.tag, after.b.bias.tag) == ("no decay", "no decay")


def test_a_removal_in_training_mode_does_not_iterate_spectral_norms() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(),
                        parametrizations.spectral_norm(nn.Linear(6, 7)), nn.ReLU(), nn.Linear(7, 3))  # fmt: skip
    example = (torch.randn(4, 5),)
    channels = channel_groups(net, example)
    zero_channels(net, channels.groups[0], np.arange(4))
    net.train()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    assert before
    remove(net, plan_removal(net, channels))
    assert net[0].out_features == 4
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
