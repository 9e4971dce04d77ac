"""The graph decides: what a model takes from a width is found in its graph, whatever the outputs say.

In most of these the comparison of outputs is switched off.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extcon_cli.channels import ChannelGroup, channel_groups, dry_run, plan_removal, remove, remove_zeros, zero_channels
from extcon_cli.channels.analysis.groups import analyse
from extcon_cli.channels.analysis.operator import FlowOperator
from extcon_cli.channels.analysis.rules import registry
from extcon_cli.channels.analysis.trace import trace
from extcon_cli.channels.removal.narrow import exchanged
from extcon_cli.channels.removal.rewrites import RemovalPlan
from extcon_cli.channels.removal.same_graph import graph_differences
from extcon_cli.errors import GateError

C = 12
Middle = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """conv, ReLU, `middle`, conv: `middle` may look at the width."""

    def __init__(self, middle: Middle, wide: int = C, **extra: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, C, 3), nn.Conv2d(wide, 4, 3)
        self.middle = middle
        for name, module in extra.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self, F.relu(self.stem(x))))


EXAMPLE = (torch.randn(2, 3, 12, 12),)

TAKEN: dict[str, Middle] = {
    "a quotient": lambda m, y: y / y.shape[1],
    "a root": lambda m, y: y / math.sqrt(y.shape[1]),
    "a bound": lambda m, y: y.clamp(max=1e6 * y.shape[1]),
    "a branch": lambda m, y: y.tanh() if y.shape[1] == C else y.tanh() * 1.0,
    "a constant": lambda m, y: y * torch.tensor(float(y.shape[1])),
    "a table": lambda m, y: y * torch.arange(y.shape[1]).sum(),
    "a power": lambda m, y: y.abs() ** (1 / y.shape[1]),
    "a pool": lambda m, y: F.avg_pool2d(y, 3, 1 + (y.shape[1] == C), 1),
    "a kernel's reach": lambda m, y: F.pad(y, (y.shape[1], 0)),
    "an order": lambda m, y: y.roll(y.shape[1], 3),
}


def stem(groups: tuple[ChannelGroup, ...]) -> ChannelGroup:
    return next(group for group in groups if any(part.parameter == "stem.weight" for part in group.slices))


@pytest.fixture(name="blind")
def _blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """No output is ever too far from what it was."""
    monkeypatch.setattr(dry_run, "TOLERANCE", math.inf)


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.usefixtures("blind")
def test_what_is_taken_from_a_width_freezes_it_with_the_line(name: str) -> None:
    group = stem(channel_groups(Net(TAKEN[name]).eval(), EXAMPLE).groups)
    assert "the forward pass depends on the width" in group.reason
    assert "test_same_graph.py" in group.reason


STAYS: dict[str, tuple[Middle, int, dict[str, Callable[[], nn.Module]]]] = {
    "nothing": (lambda m, y: y, C, {}),
    "halves": (lambda m, y: y[:, : y.shape[1] // 2] * y[:, y.shape[1] // 2 :], C // 2, {}),
    "chunks": (lambda m, y: torch.mul(*y.chunk(2, 1)), C // 2, {}),
    "sized splits": (lambda m, y: torch.mul(*y.split(y.shape[1] // 2, 1)), C // 2, {}),
    "a view of the width": (lambda m, y: y.view(len(y), y.shape[1], -1).reshape(y.shape), C, {}),
    "shuffled": (lambda m, y: y.view(len(y), 2, -1, 10, 10).transpose(1, 2).reshape(len(y), -1, 10, 10), C, {}),
    "one filter a channel": (lambda m, y: m.each(y), C, {"each": lambda: nn.Conv2d(C, C, 3, groups=C)}),
    "two filters a channel": (lambda m, y: m.each(y), 2 * C, {"each": lambda: nn.Conv2d(C, 2 * C, 3, groups=C)}),
    "a map without a bias": (lambda m, y: m.next(y.sigmoid()), 5, {"next": lambda: nn.Conv2d(C, 5, 1, bias=False)}),
    "a layer norm": (
        lambda m, y: m.norm(y.movedim(1, -1)).movedim(-1, 1), C, {"norm": lambda: nn.LayerNorm(C)},
    ),
    "a group norm": (lambda m, y: m.norm(y), C, {"norm": lambda: nn.GroupNorm(1, C)}),
    "broadcast": (lambda m, y: y * y.mean((2, 3), keepdim=True).expand_as(y), C, {}),
    "a place in space": (lambda m, y: y[:, :, 2:7, 1], C, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_only_follows_the_width_goes(name: str) -> None:
    middle, wide, extra = STAYS[name]
    reader: nn.Module = nn.Conv1d(wide, 4, 3) if name == "a place in space" else nn.Conv2d(wide, 4, 3)
    net = Net(middle, wide, head=reader, **{key: make() for key, make in extra.items()}).eval()
    assert stem(channel_groups(net, EXAMPLE).groups).reason == ""


@pytest.mark.parametrize("exported", [False, True])
def test_a_graph_is_like_itself(exported: bool) -> None:
    net = Net(lambda m, y: (y + torch.tensor([float("nan")])).chunk(2, 1)[0] * torch.tensor(3), C // 2).eval()
    channels = analyse(net, trace(net, EXAMPLE, exported=exported))
    assert graph_differences(channels, RemovalPlan(), channels.graphs[0], trace(net, EXAMPLE, exported=exported)) == []


def untold(picked: registry.Flow) -> registry.Flow:
    """A rule that freezes nothing and ties nothing."""

    def rule(op: FlowOperator) -> Any:
        analysis = op.analysis
        frozen, ties = len(analysis.frozen), len(analysis.ties)
        value = picked(op)
        del analysis.frozen[frozen:], analysis.ties[ties:]
        return value

    return rule


LIES: dict[str, tuple[str, Middle, int]] = {
    "slice": ("slice", lambda m, y: y[:, :5], 5),
    "slice from the end": ("slice", lambda m, y: y[:, -5:], 5),
    "halves in another order": (
        "slice",
        lambda m, y: torch.cat([y[:, y.shape[1] // 2 :], y[:, : y.shape[1] // 2]], 1),
        C,
    ),
    "select": ("select", lambda m, y: y[:, 7:8] * y.select(1, 3).unsqueeze(1), 1),
    "narrow": ("narrow", lambda m, y: torch.narrow(y, 1, 2, 6), 6),
    "split": ("split", lambda m, y: torch.cat(y.split(6, 1)[::-1], 1), C),
    "unequal parts": ("split_with_sizes", lambda m, y: y.split([4, y.shape[1] - 4], 1)[1], C - 4),
    "chunk": ("chunk", lambda m, y: y.chunk(5, 1)[0], 3),
    "unbind": ("unbind", lambda m, y: torch.stack(y.unbind(1)[:4], 1), 4),
    "pad": ("pad", lambda m, y: F.pad(y, (0, 0, 0, 0, 0, 20 - y.shape[1])), 20),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.usefixtures("blind")
def test_a_rule_that_lies_about_a_literal_is_caught_without_outputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller network runs, by a reader of whatever width comes: only the graph can tell."""
    operator, middle, wide = LIES[name]

    class Reader(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return y.mean((2, 3))

    net = nn.Sequential(Net(middle, wide, head=nn.Identity()), Reader()).eval()
    monkeypatch.setitem(registry._FLOWS, operator, untold(registry._FLOWS[operator]))
    channels = analyse(net, trace(net, EXAMPLE))
    ids = np.unique(channels.channel_ids[channels.analysis.dims["0.stem.weight", 0]])
    small = copy.deepcopy(net)
    cuts = RemovalPlan.from_json({
        "format": 3, "folds": [],
        "cuts": [{"parameter": f"0.stem.{part}", "dim": 0, "size": C, "removed": [[1, 5], [9, 10]]}
                 for part in ("bias", "weight")],
    })  # fmt: skip
    remove(small, cuts)
    assert len(ids) == C  # the rule says that nothing is tied
    try:
        graph = trace(small, EXAMPLE)
    except Exception:  # the smaller network does not run: seen without a graph
        return
    assert graph_differences(channels, cuts, channels.graphs[0], graph)


def test_most_lies_run_and_so_are_seen_by_the_graph_alone() -> None:
    assert sum(ran(name) for name in LIES) >= 6


def ran(name: str) -> bool:
    _, middle, wide = LIES[name]
    net = Net(middle, wide, head=nn.Identity()).eval()
    net.stem = nn.Conv2d(3, C - 5, 3)
    try:
        net(*EXAMPLE)
    except Exception:
        return False
    return True


class Head(nn.Module):
    """A head behind code that takes any dimension of length one away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(self.conv(x).relu(), 1)
        return self.head(y.reshape([size for size in y.shape if size > 1]))


def silenced(net: nn.Module, left: int) -> tuple[nn.Module, Any]:
    channels = channel_groups(net.eval(), EXAMPLE)
    for group in channels.groups:
        if group.prunable:
            zero_channels(net, group, np.arange(group.size - left))
    return net, channels


@pytest.mark.parametrize(("left", "goes"), [(1, False), (2, True)])
def test_the_widths_that_are_about_to_go_count(left: int, goes: bool) -> None:
    """Whether a single channel is left is not known before."""
    net, channels = silenced(Head(), left)
    if goes:
        assert remove_zeros(net, EXAMPLE, channels=channels).module.conv.out_channels == left
    else:
        with pytest.raises(GateError, match=r"on the smaller width"):
            remove_zeros(net, EXAMPLE, channels=channels)


def test_a_branch_that_only_a_single_channel_takes_holds_its_group_back_alone() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = Net(lambda m, y: 2 * y if y.shape[1] > 1 else y)
            self.two = Net(lambda m, y: y)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x)

    net, channels = silenced(Two(), 1)
    removal = remove_zeros(net, EXAMPLE, channels=channels)
    assert removal.module.one.stem.out_channels == C
    assert removal.module.two.stem.out_channels == 1
    held = next(group for group in channels.groups if group.name == "one.stem")
    decided = {held: np.arange(C) < C - 1}
    with pytest.raises(GateError, match=r"depends on the width: .*test_same_graph\.py"):
        remove_zeros(net, EXAMPLE, channels=channels, decided=decided)
    assert (removal.prunable, removal.filters) == (C, C - 1)


def test_exchanged_modules_are_compared_from_outside() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(5, 16), nn.LayerNorm(16), nn.Linear(16, 3)
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.first(x))
            mixed, shares = self.attention(y, y, y)
            return self.head(y + mixed) + shares.sum(-1, keepdim=True)

    net, example = Tokens().eval(), (torch.randn(2, 6, 5),)
    channels = channel_groups(net, example)
    for group in channels.groups:
        if group.prunable:
            zero_channels(net, group, np.arange(group.size // 2))
    plan = plan_removal(net, channels)
    small = copy.deepcopy(net)
    remove(small, plan)
    found = exchanged(small)
    assert "norm" in found
    before, after = channels.graphs[0], trace(small, example)
    assert graph_differences(channels, plan, before, after, found) == []
    assert graph_differences(channels, plan, before, after) != []
    assert graph_differences(channels, RemovalPlan(), before, after, found) != []
