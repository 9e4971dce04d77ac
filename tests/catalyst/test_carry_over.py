"""After a removal the optimizer goes on: what is left moves as it would have moved beside the dead filters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from extcon_cli.catalyst.carry_over import carry_over
from extcon_cli.channels import remove, remove_zeros

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=0.01),
}


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return tuple(torch.randn(16, size, generator=generator, dtype=torch.float64) for size in (3, 2))  # type: ignore[return-value]


def train(net: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        x, y = batch(number)
        mse_loss(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def with_zeros() -> nn.Module:
    """The first two of eight hidden neurons are zero, and no gradient reaches them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        net[0].weight[:2], net[0].bias[:2] = 0, 0
    return net


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_what_is_left_moves_as_beside_the_dead(name: str) -> None:
    whole = with_zeros()
    reference = OPTIMIZERS[name](whole.parameters())
    train(whole, reference, range(5))
    small, before = copy.deepcopy(whole), dict[str, nn.Parameter]()
    optimizer = OPTIMIZERS[name](small.parameters())
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    before = dict(small.named_parameters(remove_duplicate=False))
    plan = remove_zeros(small, (batch(0)[0],)).plan
    remove(small, plan)
    carry_over(optimizer, before, small, plan)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in small.parameters()]
    train(whole, reference, range(5, 10))
    train(small, optimizer, range(5, 10))
    assert small[0].out_features == 6
    torch.testing.assert_close(small(batch(99)[0]), whole(batch(99)[0]), rtol=1e-12, atol=1e-12)


def test_a_state_of_another_shape_starts_anew() -> None:
    net = with_zeros()
    optimizer = OPTIMIZERS["adafactor"](net.parameters())
    train(net, optimizer, range(2))
    before = dict(net.named_parameters(remove_duplicate=False))
    plan = remove_zeros(net, (batch(0)[0],)).plan
    remove(net, plan)
    carry_over(optimizer, before, net, plan)
    train(net, optimizer, range(2, 4))
    assert all(id(held) in {id(p) for p in net.parameters()} for held in optimizer.state)


def test_a_bias_that_was_not_there_is_trained_too() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        net[0].weight[:1], net[0].bias[:1] = 0, 0  # sigmoid(0) is one half: it is folded into a new bias
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    before = dict(net.named_parameters(remove_duplicate=False))
    plan = remove_zeros(net, (batch(0)[0],)).plan
    remove(net, plan)
    carry_over(optimizer, before, net, plan)
    start = net[2].bias.clone()
    train(net, optimizer, range(2))
    assert not torch.equal(net[2].bias, start)
