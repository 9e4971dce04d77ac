"""Several examples reach more of a model; what none of them reaches may be ignored."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from extcon_cli import Catalyst
from extcon_cli.channels import (
    Channels,
    channel_groups,
    difference,
    plan_removal,
    remove,
    remove_zeros,
    verify,
    zero_channels,
)
from extcon_cli.channels.compare import Inputs

Remove = Callable[..., Any]
SMALL, LARGE = (torch.randn(2, 3, 12, 12),), (torch.randn(2, 3, 18, 18),)


class Resolutions(nn.Module):
    """Another layer for larger images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.big, self.b, self.c = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 6, 3),
            nn.Conv2d(6, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.c(self.b(self.big(y) if x.shape[-1] > 14 else y).relu())


class Tasks(nn.Module):
    """An encoder with a head for each task, and a mask token in no task's way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 12)
        self.heads = nn.ModuleDict({"one": nn.Linear(12, 3), "two": nn.Linear(10, 2)})
        self.token = nn.Parameter(torch.zeros(1, 1, 7))

    def forward(self, x: Tensor, task: str = "one") -> Tensor:
        y = self.first(x).relu()
        return self.heads[task](self.second(y).relu() if task == "one" else y)


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.other = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 5, 3),
            nn.Conv2d(5, 4, 3),
            nn.Linear(800, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())

    def decode(self, x: Tensor) -> Tensor:
        return self.other(self.a(x).relu().flatten(1))


def reasons(channels: Channels) -> dict[str, str]:
    return {group.name: group.reason for group in channels.groups}


@pytest.mark.parametrize(
    ("net", "example", "held", "free", "by"),
    [
        (Resolutions(), SMALL, "a", "b", "big"),
        (Tasks(), (torch.randn(4, 6),), "first", "second", "heads.two"),
        (Flattened(), SMALL, "a", None, "other"),
    ],
)
def test_what_may_feed_it_stays_unless_it_is_ignored(
    net: nn.Module, example: Inputs, held: str, free: str | None, by: str
) -> None:
    channels = channel_groups(net, example)
    assert by in channels.unreached
    assert by in reasons(channels)[held]
    assert "does not reach" in reasons(channels)[held]
    assert free is None or reasons(channels)[free] == ""
    ignored = reasons(channel_groups(net, example, ignore_unreached=True))
    assert ignored[held] == ""


def test_nothing_is_held_where_everything_is_reached() -> None:
    channels = channel_groups(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), (torch.randn(2, 4),))
    assert channels.unreached == ()
    assert reasons(channels)["0"] == ""


def silence(net: nn.Module, channels: Channels) -> None:
    for number, group in enumerate(group for group in channels.groups if group.prunable):
        zero_channels(net, group, np.arange(2 + number))


def test_several_examples_reach_both_layers() -> None:
    net = Resolutions().eval()
    channels = channel_groups(net, [SMALL, LARGE])
    assert channels.unreached == ()
    assert reasons(channels) == {"a": "", "b": "", "c": "is an output of the model"}
    slices = {part.parameter for group in channels.groups if group.name == "a" for part in group.slices}
    assert {"a.weight", "big.weight", "b.weight"} <= slices  # one is in the place of the other
    silence(net, channels)
    removal = remove_zeros(net, [SMALL, LARGE], channels=channels)
    small: Any = removal.module
    assert (small.a.out_channels, small.big.in_channels, small.big.out_channels, small.b.out_channels) == (6, 6, 6, 3)
    assert removal.certificate.exact
    assert verify(net, small, [SMALL, LARGE]).exact
    assert difference(net, small, [SMALL, LARGE]).relative < 1e-5


def test_constants_are_known_only_where_they_are_so_for_every_example(remove_exactly: Remove) -> None:
    class Shifted(Resolutions):
        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            return self.c(self.b(y + 1 if x.shape[-1] > 14 else y).relu())

    net = Shifted().eval()
    net.big = nn.Identity()  # type: ignore[assignment]
    channels = channel_groups(net, [SMALL, LARGE])
    zero_channels(net, channels.groups[0], np.arange(4))
    plan = plan_removal(net, channels)
    small = copy.deepcopy(net)
    remove(small, plan)
    assert difference(net, small, [SMALL, LARGE]).relative < 1e-5
    assert small.a.out_channels == 8  # 0 for the one, 1 for the other: no constant that could be folded
    alone = channel_groups(net, LARGE)
    remove(net, plan_removal(net, alone))
    assert net.a.out_channels == 4


def test_a_norm_in_code_that_both_examples_run_is_rewritten_once(remove_exactly: Remove) -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-2

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

    net = nn.Sequential(nn.Linear(5, 8), Norm(), nn.Linear(8, 3)).eval()
    examples: list[Inputs] = [(torch.randn(2, 5),), (torch.randn(2, 4, 5),)]
    channels = channel_groups(net, examples)
    zero_channels(net, channels.groups[0], np.arange(4))
    removal = remove_zeros(net, examples, channels=channels)
    assert len(removal.plan.norms) == 1
    assert removal.module.get_submodule("0").out_features == 4


def test_catalyst_takes_several_examples() -> None:
    torch.manual_seed(0)
    net = Resolutions()
    assert len(Catalyst(net, SMALL).filters) == 6  # b alone
    catalyst = Catalyst(net, [SMALL, LARGE], ratio=0.5, score_steps=2, shrink_steps=20)
    assert len(catalyst.filters) == 14
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for number in range(100):
        if catalyst.done:
            break
        net(*(SMALL if number % 2 else LARGE)).square().mean().backward()
        optimizer.step()
        catalyst.step()
        optimizer.zero_grad()
    report = catalyst.contract()
    assert report.certificate.exact
    assert report.filters >= 7
    assert net.big.in_channels == net.a.out_channels < 8
