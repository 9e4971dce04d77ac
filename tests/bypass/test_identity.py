"""The new start near the identity: which layers, what becomes of them, and that a stuck stack shows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.bypass.propagation import propagation
from extcon_cli.bypass.strategies import STRATEGIES
from extcon_cli.bypass.strategies.base import PhaseSteps, StrategyContext
from extcon_cli.bypass.strategies.identity import square_layers
from extcon_cli.channels import channel_groups
from extcon_cli.errors import UsageError

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def stack(depth: int, width: int = 12) -> nn.Module:
    torch.manual_seed(0)
    hidden = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), *hidden, nn.Linear(width, 2)).eval()


def context(module: nn.Module, example: Tensor) -> StrategyContext:
    channels = channel_groups(module, (example,))
    return StrategyContext(
        lambda: copy.deepcopy(module), lambda: channels, (example,), PhaseSteps(1, 1, 1), training=lambda: []
    )


def test_the_hidden_square_layers_are_near_the_identity_and_nothing_else_has_moved() -> None:
    module = stack(5)
    strategy = STRATEGIES["identity"](context(module, X))
    report = strategy.contract()
    assert report.to_json() == {"preserves": False, "redrawn": 5}
    for name, tensor in report.module.state_dict().items():
        layer = int(name.split(".")[0])
        if layer in (0, 12):  # reads the inputs, gives the outputs
            assert torch.equal(tensor, module.state_dict()[name])
        elif name.endswith("bias"):
            assert not tensor.any()
        else:
            noise = (tensor - torch.eye(12)) * 12**0.5
            assert 0.05 < noise.std() < 0.13
    again = STRATEGIES["identity"](context(module, X)).module.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in report.module.state_dict().items())


class Convolutions(nn.Module):
    """Four convolutions that keep their shape, with batch norms, between others; one in a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.plain = nn.Sequential(
            *[part for _ in range(4) for part in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())]
        )
        self.wide = nn.Conv2d(4, 4, 3)  # loses the border
        self.grown, self.branch = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grown(self.wide(self.plain(self.first(x).relu())).relu()).relu()
        return self.head((x + self.branch(x)).mean((2, 3)))


def test_of_convolutions_those_of_the_plain_stack_that_keep_their_shape() -> None:
    torch.manual_seed(0)
    module, images = Convolutions().eval(), torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        for child in module.plain:
            if isinstance(child, nn.BatchNorm2d):
                child.weight.fill_(3.0)
                child.running_mean.fill_(1.0)
    found = square_layers(module, channel_groups(module, (images,)))
    assert [layer.name for layer in found] == ["plain.0", "plain.3", "plain.6", "plain.9"]
    anew = STRATEGIES["identity"](context(module, images)).module
    inputs = module.first(images).relu()
    near = anew.plain(inputs)  # type: ignore[operator]
    assert functional.cosine_similarity(near.flatten(), inputs.flatten(), dim=0) > 0.95
    assert torch.equal(anew.branch.weight, module.branch.weight)  # type: ignore[union-attr]


def test_a_net_that_is_not_deep_is_refused() -> None:
    with pytest.raises(UsageError, match="3 hidden layers of a plain stack"):
        STRATEGIES["identity"](context(stack(3), X))


def test_in_a_deep_stack_neither_signal_nor_gradient_gets_through_and_near_the_identity_both_do() -> None:
    def measured(module: nn.Module) -> tuple[float, float]:
        layers = square_layers(module, channel_groups(module, (X,)))
        found = propagation(module, layers, [(X, Y)], lambda m, batch: functional.cross_entropy(m(batch[0]), batch[1]))
        assert found.layers == 24
        assert all(parameter.grad is None for parameter in module.parameters())
        return found.signal, found.gradient

    module = stack(24)
    assert max(measured(module)) < 1e-3
    assert min(measured(STRATEGIES["identity"](context(module, X)).module)) > 0.05
