"""Growing in depth: what is not there yet changes no output, and what comes in changes none at that moment."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.bypass.growth import Growth
from extcon_cli.channels import channel_groups
from extcon_cli.errors import UsageError

X = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
STEPS = 24


def stack(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [part for _ in range(6) for part in (nn.Linear(8, 8), activation())]
    return nn.Sequential(nn.Linear(5, 8), activation(), *hidden, nn.Linear(8, 2))


def without(module: nn.Sequential, inserted: int) -> Tensor:
    """The outputs of the stack of the first `inserted` hidden layers alone."""
    return nn.Sequential(*module[: 2 + 2 * inserted], module[-1])(X)


def test_every_insertion_changes_no_output_and_all_layers_are_trained_in_the_end() -> None:
    module = stack()
    growth = Growth(module, channel_groups(module, (X,)), (X,), steps=STEPS)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01, weight_decay=0.1)
    seen = []
    for index in range(STEPS):
        assert torch.equal(module(X), without(module, growth.inserted(index)))
        optimizer.zero_grad()
        functional.cross_entropy(module(X), Y).backward()
        optimizer.step()
        seen.append(growth.after_step(index, optimizer))
        there = [layer.module.weight for layer in growth.layers[: growth.inserted(index)]]
        assert all(parameter in optimizer.state for parameter in there)
        assert len(optimizer.state) == 4 + 2 * growth.inserted(index)
    assert seen == sorted(seen)
    assert seen[STEPS // 2 - 1] == 6
    assert seen[0] == 0
    assert not any(torch.equal(layer.module.weight, torch.eye(8)) for layer in growth.layers)


def test_an_activation_that_changes_what_it_has_given_is_refused() -> None:
    module = stack(nn.Tanh)
    with pytest.raises(UsageError, match="as ReLU does"):
        Growth(module, channel_groups(module, (X,)), (X,), steps=STEPS)


def test_a_net_that_is_not_deep_is_refused() -> None:
    module = stack()[-4:]
    with pytest.raises(UsageError, match="growing in depth is for 4 and more"):
        Growth(module, channel_groups(module, (torch.zeros(2, 8),)), (torch.zeros(2, 8),), steps=STEPS)
