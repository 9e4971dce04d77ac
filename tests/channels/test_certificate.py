"""The certificate: measured in float32 and float64, on random and on real inputs, and what it cannot measure."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from extcon_cli.channels import certify, channel_groups, plan_removal, remove, zero_channels
from extcon_cli.channels.removal.certificate import weights_hash


class Net(nn.Module):
    """conv-BN-ReLU-linear; `cast` makes it a model that casts to float32, `single` one that runs in nothing else."""

    def __init__(self, cast: bool = False, single: bool = False) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 3)
        self.cast, self.single = cast, single

    def forward(self, x: Tensor) -> Tensor:
        if self.single and x.dtype != torch.float32:
            raise TypeError("float32 only")
        x = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        return self.fc(x.float() if self.cast else x)


def halved(net: nn.Module, example: tuple[Tensor, ...]):
    channels = channel_groups(net, example)
    for group in channels.groups:
        if group.prunable:
            zero_channels(net, group, np.arange(group.size // 2))
    removal = plan_removal(net, channels)
    small = copy.deepcopy(net)
    remove(small, removal)
    return small, removal


def test_an_exact_removal_is_certified_with_what_was_measured() -> None:
    net, example = Net(), (torch.randn(2, 1, 8, 8),)
    small, removal = halved(net, example)
    certificate = certify(net, small, removal, example, [(torch.randn(5, 1, 8, 8),)])
    assert certificate.exact
    assert certificate.double is not None
    assert certificate.double.relative < 1e-12
    assert certificate.random.samples == 8  # two batch sizes, two resolutions
    assert certificate.evaluation is not None
    assert certificate.evaluation.samples == 5
    assert (certificate.before, certificate.after) == (weights_hash(net), weights_hash(small))


def test_a_removal_that_changes_outputs_is_not_certified() -> None:
    net, example = Net(), (torch.randn(2, 1, 8, 8),)
    small, removal = halved(net, example)
    with torch.no_grad():
        small.fc.weight[0, 0] += 1e-3
    assert not certify(net, small, removal, example).exact


def test_a_model_that_casts_to_float32_is_measured_in_float64_all_the_same() -> None:
    net, example = Net(cast=True), (torch.randn(2, 1, 8, 8),)
    small, removal = halved(net, example)
    certificate = certify(net, small, removal, example)
    assert certificate.double is not None
    assert certificate.double.relative < 1e-12


def test_a_model_that_runs_in_float32_alone_is_measured_there() -> None:
    net, example = Net(single=True), (torch.randn(2, 1, 8, 8),)
    small, removal = halved(net, example)
    certificate = certify(net, small, removal, example)
    assert certificate.exact
    assert certificate.double is None
    assert certificate.to_json()["double"] is None


def test_what_runs_in_training_alone_is_not_broken() -> None:
    """GoogLeNet's auxiliary heads are not seen by a trace in eval mode; the trial runs them."""
    net = torchvision.models.googlenet(weights=None, num_classes=5, aux_logits=True, init_weights=False)
    example = (torch.randn(2, 3, 64, 64),)
    small, _ = halved(net, example)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    small.train()(example[0]).logits.sum().backward()
