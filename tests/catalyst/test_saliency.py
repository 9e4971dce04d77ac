"""The saliency is the loss that the refit leaves, the curve its sum, and the scores its hull."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.saliency import Compare, compensated, drawn_labels, drawn_noise, marginal_costs
from extcon_cli.catalyst.target import decide
from extcon_cli.channels import channel_groups
from extcon_cli.channels.compare import Inputs


def least_error(hidden: Tensor, weight: Tensor, fisher: Tensor, gone: tuple[int, ...]) -> float:
    """E of (W x - W' x_K)^T S (W x - W' x_K) for the best W', by a solver of least squares; hidden is centred."""
    kept = [column for column in range(hidden.shape[1]) if column not in gone]
    wanted = hidden @ weight.T
    found = hidden[:, kept] @ torch.linalg.lstsq(hidden[:, kept], wanted, driver="gelsd").solution
    return float(torch.einsum("no,op,np->", wanted - found, fisher, wanted - found)) / len(hidden)


def test_the_cheapest_channel_is_the_one_whose_refit_leaves_the_least_error() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(2000, 5).double()
    channels = channel_groups(net, (x[:2],))
    filters = Filters.of(channels.groups)
    scores = compensated(net, channels, filters, [(x,)], lambda outputs: (outputs[0] ** 2).sum() / 2)
    hidden = net[1](net[0](x)).detach()
    hidden = hidden - hidden.mean(0)
    z = net(x).detach()  # the gradients
    weight, fisher = net[2].weight.detach(), z.T @ z / len(z)
    single = [least_error(hidden, weight, fisher, (one,)) for one in range(6)]
    order = scores.argsort().tolist()
    assert order[0] == int(torch.tensor(single).argmin())
    pairs = {(order[0], one): least_error(hidden, weight, fisher, (order[0], one)) for one in order[1:]}
    assert min(pairs, key=pairs.__getitem__) == (order[0], order[1])


def test_copies_are_free_and_scale_does_not_matter() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    net = nn.Sequential(*layers)
    with torch.no_grad():
        net[0].weight[4:], net[0].bias[4:] = net[0].weight[:2], net[0].bias[:2]
    x = torch.randn(64, 2, 6, 6)
    batches: list[Inputs] = [(x,)]
    rescaled = copy.deepcopy(net)
    with torch.no_grad():
        rescaled[0].weight[::2] *= 0.1
        rescaled[0].bias[::2] *= 0.1
        rescaled[2].weight[:, ::2] *= 10

    def drawn(outputs: Sequence[Tensor]) -> Tensor:
        return drawn_labels(outputs[0], torch.Generator().manual_seed(0))

    found, every = [], []
    for one in (net, rescaled):
        channels = channel_groups(one, (x[:2],))
        filters = Filters.of(channels.groups)
        scores = compensated(one, channels, filters, batches, drawn)
        found.append(decide(scores, filters, 0.5))
        every.append(scores)
        assert len(set(scores[:6].argsort()[:2].tolist()) & {0, 1, 4, 5}) == 2
        assert not {0, 4} <= set(scores[:6].argsort()[:2].tolist())
    assert torch.equal(*found)
    assert torch.allclose(*every, rtol=1e-3)


def test_groups_with_many_readers_or_none_the_model_as_before(
    net: nn.Module, filters: Filters, batches: list[tuple[Tensor, Tensor]]
) -> None:
    net.train().requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    channels = channel_groups(net, (batches[0][0][:2],))
    inputs: list[Inputs] = [(x,) for x, _ in batches]
    scores = compensated(net, channels, filters, inputs, lambda outputs: drawn_noise(outputs[0], torch.Generator()))
    assert scores.isfinite().all()
    assert (scores > 0).all()
    assert net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    unread = compensated(net, channels, filters, [(batches[0][0],)], lambda z: 0.0 * z[0].sum())
    assert unread.isfinite().all()


class Branches(nn.Module):
    """Two hidden layers side by side, of which one counts a thousandth of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + 1e-3 * self.second(x)


def test_losses_tell_a_layer_that_matters_from_one_that_hardly_does() -> None:
    torch.manual_seed(0)
    net, x = Branches().double(), torch.randn(64, 5, dtype=torch.float64)
    channels = channel_groups(net, (x,))
    filters = Filters.of(channels.groups)

    def of(compare: Compare) -> list[Tensor]:
        found = compensated(net, channels, filters, [(x,)], lambda z: (z[0] ** 2).sum() / 2, compare=compare)
        return [found[span] for span in filters.spans()]

    shares, losses = of("shares"), of("losses")
    assert [float(part.sum()) for part in shares] == pytest.approx([1.0, 1.0])
    counted, hardly = sorted((float(part.sum()) for part in losses), reverse=True)
    assert hardly < 1e-4 * counted
    assert all(torch.equal(one.argsort(), other.argsort()) for one, other in zip(shares, losses, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_marginal_costs_are_the_slopes_of_the_hull(seed: int) -> None:
    spent = torch.rand(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(0)
    slopes = marginal_costs(spent / spent[-1])
    assert all(b > a for a, b in itertools.pairwise(slopes.tolist()))
    curve = torch.cat([torch.zeros(1), spent / spent[-1]])
    under = torch.cat([torch.zeros(1), slopes.cumsum(0)])
    assert (under <= curve + 1e-7).all()
    assert float(under[-1]) == pytest.approx(1.0)
    touching = (under - curve).abs() < 1e-7
    for at in range(1, 9):  # a corner of the hull lies on the curve
        if slopes[at] - slopes[at - 1] > 1e-6:
            assert touching[at]


def test_drawn_labels_make_the_fisher_information() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]]).expand(40000, 3).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(drawn_labels(logits, torch.Generator().manual_seed(0), temperature=1.0), logits)
    p = logits[0].detach().softmax(0)
    torch.testing.assert_close(gradient.T @ gradient / 40000, p.diag() - p[:, None] * p, rtol=0.05, atol=0.005)
