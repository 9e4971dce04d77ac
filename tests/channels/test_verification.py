"""`verify`: one measurement for the command, the certificate and the public function; nothing is skipped silently."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.channels import verify
from extcon_cli.errors import GateError

X = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


class Net(nn.Module):
    """Takes any resolution, or asks for the one that it was built for."""

    def __init__(self, *, fixed: bool = False) -> None:
        super().__init__()
        self.conv, self.fc, self.fixed = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5), fixed

    def forward(self, x: Tensor) -> Tensor:
        if self.fixed and x.shape[-1] != 8:
            raise ValueError("8 pixels")
        return self.fc(self.conv(x).relu().mean((2, 3)))


class Half(nn.Module):
    """Runs in float32 only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("float32")
        return x * 2


def test_batch_sizes_and_resolutions_and_real_inputs() -> None:
    net = Net()
    found = verify(net, copy.deepcopy(net), X, evaluation=[X, X])
    assert found.random.samples == 2 * (1 + 3 + 8)
    assert found.double is not None
    assert found.double.samples == 2 * (1 + 3 + 8)
    assert found.evaluation is not None
    assert found.evaluation.samples == 4
    assert found.relative == 0
    assert found.exact
    assert verify(net, copy.deepcopy(net), X, sizes=(2,)).random.samples == 4


def test_the_worst_of_all_counts() -> None:
    first, second = Net(), Net()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        second.fc.bias += 1e-3
    found = verify(first, second, X)
    assert found.relative == max(gap.relative for gap in found.measured) > 1e-5
    assert not found.exact


def test_a_difference_that_shows_at_another_resolution_only() -> None:
    class Cropped(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[..., :8, :8])

    first, second = Net(), Cropped()
    second.load_state_dict(first.state_dict())
    assert verify(first, second, (torch.randn(2, 3, 8, 8),)).relative > 1e-3


def test_one_that_takes_one_resolution_is_compared_there() -> None:
    net = Net(fixed=True)
    assert verify(net, copy.deepcopy(net), X).random.samples == 12


def test_a_second_module_that_takes_less_is_refused() -> None:
    first, second = Net(), Net(fixed=True)
    second.load_state_dict(first.state_dict())
    with pytest.raises(GateError, match=r"the second module does not take inputs of \[2, 3, 12, 12\]"):
        verify(first, second, X)
    with pytest.raises(GateError, match=r"\[2, 3, 8, 8\]"):
        verify(first, nn.Linear(5, 5), X)


def test_without_float64_it_says_so() -> None:
    found = verify(Half(), Half(), X)
    assert found.double is None
    assert found.exact


def test_arguments_by_name() -> None:
    net = Net()
    assert verify(net, copy.deepcopy(net), {"x": X[0]}).exact
