"""The ResNets for 3x32x32 images of He et al. 2015, section 4.2, with parameter-free shortcuts (option A).

Tensor names are those of the widely used public checkpoints (akamaster/pytorch_resnet_cifar10): conv1, bn1,
layer1..3.N.conv1/bn1/conv2/bn2, linear.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions; a shortcut that changes size drops every second pixel and adds zero channels."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H / stride, W / stride)
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1:
            missing = y.shape[1] - x.shape[1]
            below = missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, below, missing - below])
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """6 n + 2 layers: a convolution, three stages of n blocks (16, 32, 64 channels), global mean, linear."""

    def __init__(self, n: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, n, stride=1)
        self.layer2 = self._stage(16, 32, n, stride=2)
        self.layer3 = self._stage(32, 64, n, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inside: int, outside: int, n: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(inside, outside, stride), *(Block(outside, outside, 1) for _ in range(n - 1)))

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, num_classes)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def cifar_resnet20(num_classes: int = 10) -> CifarResNet:
    """20 layers, 0.27 M parameters."""
    return CifarResNet(3, num_classes)


def cifar_resnet56(num_classes: int = 10) -> CifarResNet:
    """56 layers, 0.85 M parameters."""
    return CifarResNet(9, num_classes)
