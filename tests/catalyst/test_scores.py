"""What a filter is worth, and what scoring leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.catalyst import scores
from extcon_cli.catalyst.filters import Filters, norms
from extcon_cli.catalyst.regulariser import Race, catalyst_penalty, group_lasso

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def net(net: nn.Module) -> nn.Module:
    """In float64: the formulas hold there to many digits, on every machine."""
    return net.double()


@pytest.fixture
def batches(batches: Batches) -> Batches:
    return [(x.double(), y) for x, y in batches]


def loss_of(net: nn.Module):
    return lambda batch: F.cross_entropy(net(batch[0]), batch[1])


def test_energy_is_the_sum_of_squared_taylor_terms(net: nn.Module, filters: Filters, batches: Batches) -> None:
    found = scores.energy(net, filters, batches, loss_of(net))
    reference = torch.zeros(len(filters), dtype=torch.float64)
    for x, y in batches:
        probe = copy.deepcopy(net).train()
        F.cross_entropy(probe(x), y).backward()
        named = dict(probe.named_parameters())
        terms = torch.zeros(len(filters), dtype=torch.float64)
        for part in filters.parts:
            tensor = named[part.parameter]
            for row, owner in zip(part.rows, part.owner, strict=True):
                terms[owner] += (tensor.detach() * tensor.grad).select(part.dim, int(row)).sum()
        reference += terms.square()
    torch.testing.assert_close(found, reference)


def test_taylor_is_the_absolute_taylor_term(net: nn.Module, filters: Filters, batches: Batches) -> None:
    one = batches[:1]
    squared = scores.energy(net, filters, one, loss_of(net))
    torch.testing.assert_close(scores.taylor(net, filters, one, loss_of(net)).square(), squared)


def test_scoring_leaves_the_model_as_it_was(net: nn.Module, filters: Filters, batches: Batches) -> None:
    net.train()
    net.bn1.eval()
    net.fc.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    scores.energy(net, filters, batches, loss_of(net))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert (net.training, net.bn1.training, net.bn.training) == (True, False, True)
    assert not net.fc.weight.requires_grad
    assert net.stem.weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_energy_does_not_see_the_scale_of_a_filter(net: nn.Module, filters: Filters, batches: Batches) -> None:
    """Rescaling filters with the function preserved leaves every score, hence every decision, as it was."""
    found = scores.energy(net, filters, batches, loss_of(net))
    rescaled = copy.deepcopy(net)
    with torch.no_grad():  # ReLU is homogeneous: a tenth before it, ten times after it
        for channel in (0, 5, 7):
            rescaled.bn1.weight[channel] *= 0.1
            rescaled.bn1.bias[channel] *= 0.1
            rescaled.conv2.weight[:, channel] *= 10
    assert torch.allclose(net.eval()(batches[0][0]), rescaled.eval()(batches[0][0]))
    again = scores.energy(rescaled, filters, batches, loss_of(rescaled))
    torch.testing.assert_close(again, found)
    assert not torch.allclose(scores.magnitude(rescaled, filters), scores.magnitude(net, filters))


def test_normalised_scores_have_mean_one_in_each_group(filters: Filters) -> None:
    raw = torch.rand(len(filters)) * torch.cat([torch.full((g.size,), 10.0**i) for i, g in enumerate(filters.groups)])
    found = scores.normalised(raw, filters)
    for span in filters.spans():
        torch.testing.assert_close(found[span].mean(), torch.tensor(1.0))
    assert torch.equal(scores.normalised(torch.zeros(len(filters)), filters), torch.zeros(len(filters)))


def test_random_scores_are_of_the_seed(filters: Filters) -> None:
    assert torch.equal(scores.random_scores(filters, 3), scores.random_scores(filters, 3))
    assert not torch.equal(scores.random_scores(filters, 3), scores.random_scores(filters, 4))


def test_regularisers_and_their_gradients(net: nn.Module, filters: Filters) -> None:
    lengths = norms(net, filters)
    d = torch.rand(len(filters), dtype=torch.float64)
    torch.testing.assert_close(group_lasso(net, filters), lengths.sum())
    value = catalyst_penalty(net, filters, d)
    torch.testing.assert_close(value, (d * lengths).sum())
    value.backward()
    gamma, beta = net.bn1.weight, net.bn1.bias
    first = filters.spans()[1].start
    torch.testing.assert_close(gamma.grad[0], d[first] * gamma[0].detach() / lengths[first])
    torch.testing.assert_close(beta.grad[0], d[first] * beta[0].detach() / lengths[first])


def test_the_gradient_at_zero_is_zero(net: nn.Module, filters: Filters) -> None:
    with torch.no_grad():
        net.bn1.weight[2] = net.bn1.bias[2] = 0
    group_lasso(net, filters).backward()
    assert net.bn1.weight.grad[2] == 0
    assert torch.isfinite(net.bn1.weight.grad).all()


def test_a_race_with_equal_starts_is_a_tie(net: nn.Module, filters: Filters) -> None:
    race = Race.begin(net, filters, c=1.0, strength=0.5)
    torch.testing.assert_close(race.scores(), torch.ones(len(filters), dtype=torch.float64))
    race.step(lr=0.1)
    assert race.scores()[0] == pytest.approx(1 / (1 - 0.05))
