"""Deferred tensors: a module of them computes, is copied, changed, cut and certified as one of plain tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.channels import channel_groups, remove_zeros
from extcon_cli.channels.compare import in_double
from extcon_cli.channels.deferred import Deferred, defer, dense, is_deferred
from extcon_cli.channels.removal.certificate import weights_hash


class Tied(nn.Module):
    """Two maps that share a weight, and one between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 5, bias=False), nn.Linear(5, 5), nn.Linear(6, 5, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:  # (N, 6) -> (N, 10)
        return torch.cat([self.middle(self.first(x).relu()), self.last(x)], 1)


@pytest.fixture(autouse=True)
def _all_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extcon_cli.channels.deferred.SMALL", 0)


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """A network with deferred tensors, and the same with plain ones."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    deferred = copy.deepcopy(plain)
    defer(deferred, torch.float32)
    return deferred, plain


@torch.no_grad()
def test_a_forward_pass_and_copies(pair: tuple[nn.Module, nn.Module]) -> None:
    deferred, plain = pair
    x = torch.randn(3, 8)
    assert is_deferred(deferred)
    assert not is_deferred(plain)
    assert torch.equal(deferred(x), plain(x))
    copied = copy.deepcopy(deferred)
    for module in (copied, plain):
        module[0].weight.index_fill_(0, torch.tensor([1]), 0.0)  # type: ignore[index,union-attr]
        torch._foreach_mul_([module[0].weight], [torch.full((16, 1), 2.0)])  # type: ignore[index,union-attr]
    assert torch.equal(copied(x), plain(x))
    assert not torch.equal(copied(x), deferred(x))  # which its copy's changes do not touch
    assert weights_hash(copied) == weights_hash(plain)
    wide = in_double(copied)
    assert torch.equal(wide(x.double()), copy.deepcopy(plain).double()(x.double()))
    assert all(parameter.dtype == torch.float64 for parameter in wide.parameters())


@torch.no_grad()
def test_what_was_written_stays_whatever_becomes_of_its_source() -> None:
    first, second = (Deferred(lambda value=value: torch.full((2,), value), torch.empty(2)) for value in (1.0, 2.0))
    first.copy_(second)
    second.zero_()
    assert dense(first).tolist() == [2.0, 2.0]
    assert dense(second).tolist() == [0.0, 0.0]


@torch.no_grad()
def test_what_is_copied_in_as_a_whole_is_read_when_it_is_used(pair: tuple[nn.Module, nn.Module]) -> None:
    deferred, plain = pair
    state = {name: torch.randn_like(tensor).half() for name, tensor in plain.state_dict().items()}
    for module in pair:
        module.load_state_dict(state)
    weight = deferred.get_parameter("0.weight")
    assert isinstance(weight, Deferred)
    assert weight.dtype == torch.float32
    x = torch.randn(3, 8)
    assert torch.equal(deferred(x), plain(x))
    state["0.weight"].zero_()  # it has to stay as it is: the module holds no copy
    assert not dense(weight).any()


def test_tied_tensors_stay_tied_and_half_precision_is_cast() -> None:
    module = Tied().to(torch.bfloat16).eval()
    wanted = copy.deepcopy(module).float()
    defer(module, torch.float32)
    assert module.first.weight is module.last.weight
    assert isinstance(module.first.weight, nn.Parameter)
    assert torch.equal(module(torch.ones(2, 6)), wanted(torch.ones(2, 6)))


@torch.no_grad()
def test_a_removal_is_the_same_to_the_last_bit(pair: tuple[nn.Module, nn.Module]) -> None:
    x = torch.randn(2, 8)
    for module in pair:
        for parameter in module[0].parameters():  # type: ignore[index,union-attr]
            parameter.index_fill_(0, torch.arange(2, 5), 0.0)
    first, second = (remove_zeros(module, (x,), channels=channel_groups(module, (x,))) for module in pair)
    assert first.certificate == second.certificate
    assert first.plan == second.plan
    assert is_deferred(first.module)
    assert torch.equal(first.module(x), second.module(x))


def test_what_is_written_to_a_view_is_written_to_the_tensor(pair: tuple[nn.Module, nn.Module]) -> None:
    found, plain = (net[0].weight for net in pair)
    copied, before = copy.deepcopy(found), plain.detach().clone()
    with torch.no_grad():
        for weight in (found, plain):
            part = weight[2:5]
            weight.t()[0].fill_(7.0)
            part[1].zero_()
            part.mul_(2.0)
            weight.detach().view(-1)[-3:] = torch.arange(3.0)
            weight.split(4)[3][0].neg_()
            assert weight[2, 0] == 14.0, "a view sees what is written later"
    assert isinstance(found, Deferred)
    assert torch.equal(dense(found), plain)
    assert torch.equal(dense(copied), before), "a copy is not written to"
