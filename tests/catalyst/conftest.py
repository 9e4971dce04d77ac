"""A small net with everything that matters to filters: batch norms, a residual sum, a map without normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.catalyst.filters import Filters
from extcon_cli.channels import Channels, channel_groups


class Net(nn.Module):
    """conv-BN-ReLU, a residual block, a bare convolution, a linear layer: 3x8x8 -> 5."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.bare = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(F.relu(self.bare(x)).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    """The net with batch norms that have seen data and learnt something."""
    torch.manual_seed(0)
    net = Net()
    for norm in (net.bn, net.bn1, net.bn2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        norm.running_mean.normal_(std=0.3)
        norm.running_var.uniform_(0.5, 2.0)
    return net


@pytest.fixture
def channels(net: Net) -> Channels:
    return channel_groups(net, (torch.randn(2, 3, 8, 8).to(net.fc.weight),))


@pytest.fixture
def filters(channels: Channels) -> Filters:
    return Filters.of(channels.groups)


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 3, 8, 8, generator=generator), torch.randint(5, (16,), generator=generator)) for _ in range(6)
    ]
