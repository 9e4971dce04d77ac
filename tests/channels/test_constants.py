"""Constants that pass an operator that jumps: known where no rounding decides them, else the channel stays."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.channels import certify, channel_groups, classify, plan_removal, remove, remove_zeros

DEAD = 4
Steps = Callable[[Tensor], Tensor]
# (what stands behind the norm, a beta at its edge, a beta that rounding does not move over it)
JUMPS: dict[str, tuple[Steps, float, float]] = {
    "round": (lambda y: (10 * y).round() / 10, 0.35, 0.33),
    "floor": (lambda y: (10 * y).floor(), 0.7, 0.75),
    "ceil": (lambda y: (10 * y).ceil(), 0.3, 0.35),
    "sign": (lambda y: (y - 0.3).sign(), 0.3, 0.4),
    "hardshrink": (lambda y: F.hardshrink(y, 0.3), 0.3, 0.4),
    "threshold": (lambda y: F.threshold(y, 0.3, 7.0), 0.3, 0.4),
    "int": (lambda y: (10 * y).int().float(), 0.7, 0.75),
    "whole quotient": (lambda y: torch.div(y, 0.1, rounding_mode="floor"), 0.7, 0.75),
    "rounded twice": (lambda y: (10 * y).round().int().float(), 0.35, 0.33),
    "half precision": (lambda y: (y * 1.1).bfloat16().float(), (1 + 2**-8) / 1.1, 0.3),
}


class Net(nn.Module):
    """conv, batch norm, a step, conv; gamma = 0 and beta the same in half of the channels."""

    def __init__(self, step: Steps, beta: float) -> None:
        super().__init__()
        self.step = step
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
        with torch.no_grad():
            self.norm.weight[:DEAD] = 0
            self.norm.bias[:DEAD] = beta

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.step(self.norm(self.first(x))))


@pytest.fixture
def example() -> tuple[Tensor]:
    return (torch.randn(2, 3, 12, 12),)


def dead(net: nn.Module, example: tuple[Tensor]) -> int:
    return sum(int(status.dead.sum()) for status in classify(net, channel_groups(net, example)))


@pytest.mark.parametrize("name", JUMPS)
def test_where_a_rounding_decides_nothing_is_known(name: str, example: tuple[Tensor]) -> None:
    step, beta, _ = JUMPS[name]
    net = Net(step, beta).eval()
    channels = channel_groups(net, example)
    small = copy.deepcopy(net)
    plan = plan_removal(net, channels)
    remove(small, plan)
    assert dead(net, example) == 0
    assert certify(net, small, plan, example).exact


@pytest.mark.parametrize("name", JUMPS)
def test_where_no_rounding_decides_the_constant_goes(name: str, example: tuple[Tensor]) -> None:
    step, _, beta = JUMPS[name]
    net = Net(step, beta).eval()
    assert dead(net, example) == DEAD
    removal = remove_zeros(net, example)
    assert removal.filters == DEAD
    assert removal.certificate.exact


def test_bfloat16_rounds_before_the_step() -> None:
    """0.35 is 0.349609375 there, and ten times that 3.5: round gives 4, in float64 3."""
    example = (torch.randn(2, 8).bfloat16(),)
    for beta, known in ((0.35, 0), (0.33, DEAD)):
        net = nn.Sequential(nn.Linear(8, 8), Ten(), nn.Linear(8, 4)).bfloat16()
        with torch.no_grad():
            net[0].weight[:DEAD] = 0
            net[0].bias[:DEAD] = beta
        assert dead(net, example) == known


class Ten(nn.Module):
    """Ten times the input, rounded."""

    def forward(self, x: Tensor) -> Tensor:
        return (10 * x).round() / 10


def test_zero_is_zero_in_every_type(example: tuple[Tensor]) -> None:
    for step, *_ in JUMPS.values():
        net = Net(lambda y, step=step: step(y * 0.1), 0.0).eval()  # type: ignore[misc]
        assert dead(net, example) == DEAD
