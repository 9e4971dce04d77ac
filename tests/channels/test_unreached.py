"""What the example does not reach is named, and what may feed it stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.channels import ChannelGroup, channel_groups


class Heads(nn.Module):
    """A stem of 8 channels, a body of 6, and a head for each of two tasks."""

    def __init__(self, other: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.other = nn.Linear(8, 2) if other is None else other

    def forward(self, x: Tensor, task: str = "first") -> Tensor:
        y = self.stem(x).relu()
        if task == "other":
            out: Tensor = self.other(y.mean((2, 3)))
            return out
        first: Tensor = self.head(self.body(y).relu().mean((2, 3)))
        return first


class Sizes(nn.Module):
    """A map in the middle that images of more than 14 pixels pass only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.big, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        out: Tensor = self.b(self.big(y) if x.shape[-1] > 14 else y)
        return out


SMALL, LARGE = torch.randn(2, 3, 12, 12), torch.randn(2, 3, 16, 16)


def group(groups: tuple[ChannelGroup, ...], name: str) -> ChannelGroup:
    return next(each for each in groups if each.name == name)


def test_another_tasks_head_is_named_and_what_feeds_it_stays() -> None:
    channels = channel_groups(Heads().eval(), (SMALL,))
    assert channels.unreached == ("other",)
    assert group(channels.groups, "stem").reason.startswith("may feed other, which the example does not reach")
    assert group(channels.groups, "body").prunable


def test_a_branch_by_size() -> None:
    channels = channel_groups(Sizes().eval(), (SMALL,))
    assert channels.unreached == ("big",)
    assert not group(channels.groups, "a").prunable
    channels = channel_groups(Sizes().eval(), (LARGE,))
    assert channels.unreached == ()
    assert group(channels.groups, "a").prunable
    assert group(channels.groups, "big").prunable


@pytest.mark.parametrize(
    "other",
    [nn.BatchNorm1d(8), nn.Conv2d(8, 3, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 3, groups=4), nn.Embedding(5, 8)],
)
def test_any_map_or_norm_of_the_width_holds_it(other: nn.Module) -> None:
    assert not group(channel_groups(Heads(other).eval(), (SMALL,)).groups, "stem").prunable


@pytest.mark.parametrize("other", [nn.Conv2d(5, 3, 8), nn.Linear(7, 5), nn.Identity()])
def test_maps_of_another_width_hold_nothing(other: nn.Module) -> None:
    assert group(channel_groups(Heads(other).eval(), (SMALL,)).groups, "stem").prunable
