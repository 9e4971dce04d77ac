"""What a smaller module will cost is known exactly from how many channels each group loses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from extcon_cli.channels import (
    Channels,
    Cost,
    bytes_cost,
    channel_groups,
    macs_cost,
    params_cost,
    plan_removal,
    remove,
    zero_channels,
)
from extcon_cli.channels.preserving import duplicate
from extcon_cli.report.measure import measure


class Convolutions(nn.Module):
    """Plain, grouped, depthwise, transposed and residual, with batch norms: buffers count as bytes only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 12, 1, bias=False)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.back = nn.Conv2d(12, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 8, 8) -> (N, 4)
        x = self.norm(self.stem(x)).relu()
        x = x + self.back(self.grouped(self.wide(self.depthwise(x).relu()).relu()).relu())
        out: Tensor = self.head(self.up(x.relu()).relu().mean((2, 3)))
        return out


class Attention(nn.Module):
    """Heads and hidden features: by the fused operator, by matrix products, and by einsum."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.query, self.key, self.value = (nn.Linear(8, 12) for _ in range(3))
        self.out = nn.Linear(12, 8)
        self.first, self.second = nn.Linear(8, 20), nn.Linear(20, 8)

    def heads(self, x: Tensor) -> Tensor:  # (N, T, 12) -> (N, 3, T, 4)
        return x.unflatten(-1, (-1, 4)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:  # (N, 5, 8) -> (N, 5, 8)
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        if self.kind == "fused":
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        elif self.kind == "einsum":
            weights = torch.einsum("nhtd,nhsd->nhts", q, k).softmax(-1)
            mixed = torch.einsum("nhts,nhsd->nhtd", weights, v)
        else:
            mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.second(self.first(x).relu())
        return out


class Tied(nn.Module):
    """Two layers share a weight, which is counted once as parameters, and twice as work."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(4, 9)
        self.one, self.other = nn.Linear(9, 9), nn.Linear(9, 9)
        self.other.weight = self.one.weight
        self.out = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:  # (N, 4) -> (N, 3)
        out: Tensor = self.out(self.other(self.one(self.into(x).relu()).relu()).relu())
        return out


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (Convolutions, (3, 8, 8)),
    **{f"attention, {kind}": (lambda kind=kind: Attention(kind), (5, 8)) for kind in ("fused", "products", "einsum")},
    "tied": (Tied, (4,)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, ...], Channels]:
    torch.manual_seed(0)
    build, shape = CASES[request.param]
    module = build().eval()
    return module, shape, channel_groups(module, (torch.randn(2, *shape),))


def test_what_is_left_costs_what_was_predicted(case: tuple[nn.Module, tuple[int, ...], Channels]) -> None:
    module, shape, channels = case
    costs = {
        "params": params_cost(module, channels),
        "macs": macs_cost(channels),
        "bytes": bytes_cost(module, channels),
    }
    whole = measure(module, (torch.zeros(1, *shape),))
    groups = costs["macs"].groups
    assert groups
    none = np.zeros(len(groups))
    for name, cost in costs.items():
        assert cost.total(none) == getattr(whole, name)
    generator = np.random.default_rng(0)
    for _ in range(3):
        gone = np.array([generator.integers(0, group.size) for group in groups], dtype=float)
        small = duplicate(module)
        for group, count in zip(groups, gone.astype(int), strict=True):
            zero_channels(small, group, np.arange(count))
        remove(small, plan_removal(small, channels))
        left = measure(small, (torch.zeros(1, *shape),))
        for name, cost in costs.items():
            assert cost.total(gone) == getattr(left, name)


def test_a_saving_is_the_difference_of_two_totals(case: tuple[nn.Module, tuple[int, ...], Channels]) -> None:
    _, _, channels = case
    cost = macs_cost(channels)
    gone = np.array([group.size // 3 for group in cost.groups], dtype=float)
    for number in range(len(cost.groups)):
        more = gone + 2.0 * (np.arange(len(gone)) == number)
        assert cost.saving(gone, number, 2) == pytest.approx(cost.total(gone) - cost.total(more))


def test_channels_cost_one_each_where_they_are_counted() -> None:
    channels = channel_groups(Convolutions().eval(), (torch.randn(2, 3, 8, 8),))
    groups = [group for group in channels.groups if group.prunable]
    cost = Cost.counting(groups)
    assert cost.total(np.ones(len(groups))) == sum(group.size - 1 for group in groups)


def test_bytes_count_as_stored() -> None:
    module = Convolutions().eval()
    channels = channel_groups(module, (torch.randn(2, 3, 8, 8),))
    half = dict.fromkeys(module.state_dict(), torch.float16)
    nothing = np.zeros(sum(group.prunable for group in channels.groups))
    assert bytes_cost(module, channels, half).total(nothing) == measure(module, (torch.zeros(1, 3, 8, 8),), half).bytes


def test_what_the_graph_does_not_explain_is_held_constant() -> None:
    cost = macs_cost(channel_groups(Convolutions().eval(), (torch.randn(2, 3, 8, 8),)))
    nothing = np.zeros(len(cost.groups))
    assert cost.anchored(cost.total(nothing) + 100).total(nothing) == cost.total(nothing) + 100


def test_recurrent_layers_are_counted_where_the_counter_sees_them() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.state, self.out = nn.Linear(4, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:  # (N, 7, 4) -> (N, 3)
            out: Tensor = self.out(self.state(self.into(x).relu())[0][:, -1])
            return out

    module, example = Sequence().eval(), (torch.randn(2, 7, 4),)
    channels = channel_groups(module, example)
    cost = macs_cost(channels, recurrent=True)
    nothing = np.zeros(len(cost.groups))
    assert cost.total(nothing) == measure(module, example).macs
    assert macs_cost(channels).total(nothing) < cost.total(nothing)
    (group,) = cost.groups
    small = duplicate(module)
    zero_channels(small, group, np.arange(2))
    remove(small, plan_removal(small, channels))
    assert cost.total(np.array([2.0])) == measure(small, example).macs
