"""What stays takes over from what goes, as least squares say."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.catalyst.bifurcation import Flow
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.local_hand_over import fit_compensation
from extcon_cli.channels import channel_groups

Batches = list[tuple[Tensor, Tensor]]


class Pair(nn.Module):
    """A first map whose rows can be made copies of each other, and a second one that reads them."""

    def __init__(self, **convolution: object) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 4, 3, bias=False, **convolution)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.bn(self.first(x))))


@pytest.mark.parametrize(
    "convolution",
    [{}, {"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"padding": "same"}],
)
def test_copies_are_replaced_without_a_trace(convolution: dict[str, object]) -> None:
    torch.manual_seed(0)
    net = Pair(**convolution).eval()
    with torch.no_grad():
        net.first.weight[3:] = net.first.weight[:3] * 2  # and the batch norm keeps the factor
    x = torch.randn(8, 2, 9, 9)
    channels = channel_groups(net, (x[:2],))
    filters = Filters.of(channels.groups)
    decided = torch.tensor([False] * 3 + [True] * 3)
    before = net(x)
    scale = before.abs().max()
    substitute = fit_compensation(net, channels, filters, decided, [x], net, ridge=1e-9)
    alone = copy.deepcopy(net)
    Flow(alone, filters, decided, steps=1).step(0.0)
    assert (alone(x) - before).abs().max() > 0.05 * scale
    substitute.step(Flow(net, filters, decided, steps=1).step(0.0))
    assert (net(x) - before).abs().max() < 1e-3 * scale


def test_the_refit_is_the_least_squares_one() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(200, 5)
    channels = channel_groups(net, (x[:2],))
    filters = Filters.of(channels.groups)
    decided = torch.tensor([True, False] * 4)
    hidden, weight = net[1](net[0](x)).detach(), net[2].weight.detach().clone()
    wanted = torch.linalg.lstsq(hidden[:, ~decided], hidden @ weight.T).solution.T
    fit_compensation(net, channels, filters, decided, [x], net, ridge=1e-9).step(decided.float())
    torch.testing.assert_close(net[2].weight[:, ~decided], wanted, rtol=1e-3, atol=1e-4)


def test_in_parts_as_at_once(net: nn.Module, filters: Filters, batches: Batches) -> None:
    inputs = [x for x, _ in batches]
    channels = channel_groups(net, (inputs[0][:2],))
    decided = torch.arange(len(filters)) % 3 == 0
    at_once, in_parts, rarely = (copy.deepcopy(net) for _ in range(3))
    fit_compensation(at_once, channels, filters, decided, inputs, at_once).step(decided.float())
    parts = fit_compensation(in_parts, channels, filters, decided, inputs, in_parts)
    seldom = fit_compensation(rarely, channels, filters, decided, inputs, rarely, every=3)
    for _ in range(4):
        parts.step(decided.float() / 4)
        seldom.step(decided.float() / 4)
    seldom.move()
    for a, b, c in zip(at_once.parameters(), in_parts.parameters(), rarely.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-5)


def test_measuring_leaves_the_model_as_it_was(net: nn.Module, filters: Filters, batches: Batches) -> None:
    net.train()
    before = copy.deepcopy(net.state_dict())
    channels = channel_groups(net, (batches[0][0][:2],))
    fit_compensation(net, channels, filters, torch.arange(len(filters)) % 2 == 0, [x for x, _ in batches], net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training
    assert not net.conv2._forward_pre_hooks
