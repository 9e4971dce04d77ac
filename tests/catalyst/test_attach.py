"""`Catalyst` in somebody's own training loop."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import extcon_cli
from extcon_cli.catalyst.saliency import classes_dim, compensated, drawn_labels
from extcon_cli.channels import difference
from extcon_cli.errors import UsageError

Batches = list[tuple[Tensor, Tensor]]


def loop(net: nn.Module, catalyst: extcon_cli.Catalyst, optimizer: torch.optim.Optimizer, batches: Batches) -> None:
    net.train()
    for step in range(400):
        if catalyst.done:
            return
        x, y = batches[step % len(batches)]
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        catalyst.step()
        optimizer.zero_grad()
    pytest.fail("the filters never arrived at zero")


@pytest.mark.parametrize(
    "make",
    [lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=1e-3)],
)
def test_half_the_filters_go_and_the_outputs_stay(
    net: nn.Module, batches: Batches, make: Callable[..., torch.optim.Optimizer]
) -> None:
    x = batches[0][0]
    catalyst = extcon_cli.Catalyst(net, (x[:2],), ratio=0.5, score_steps=4, shrink_steps=10)
    loop(net, catalyst, make(net.parameters()), batches)
    zeroed, size = copy.deepcopy(net), sum(p.numel() for p in net.parameters())
    contraction = catalyst.contract()
    assert contraction.filters == 13
    assert contraction.difference.relative < 1e-5
    assert difference(zeroed, net, [(x,)]).relative < 1e-5
    assert sum(p.numel() for p in net.parameters()) < size
    F.cross_entropy(net.train()(x), batches[0][1]).backward()  # it trains on


def test_the_compensated_choice_and_the_hand_over_in_an_own_loop(net: nn.Module, batches: Batches) -> None:
    net.eval()
    original, inputs = copy.deepcopy(net), [(x,) for x, _ in batches]
    catalyst = extcon_cli.Catalyst(net, (inputs[0][0][:2],), ratio=0.5, shrink_steps=1)
    with pytest.raises(UsageError, match="nothing to hand over yet: scoring"):
        catalyst.hand_over(original, inputs)
    catalyst.score_compensated(inputs)
    catalyst.step()
    zeroed = difference(original, net, inputs).largest
    assert catalyst.hand_over(original, inputs).maps
    assert difference(original, net, inputs).largest < zeroed
    assert catalyst.contract().certificate.exact


def test_a_language_model_is_told_by_its_tokens_and_compared_by_losses() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 7))
    ids = torch.randint(7, (16, 3))
    usual, shares = (extcon_cli.Catalyst(net, (ids[:2],), ratio=0.5) for _ in range(2))
    usual.score_compensated([(ids,)])
    shares.score_compensated([(ids,)], compare="shares")
    generator = torch.Generator().manual_seed(0)
    expected = compensated(
        net, usual.channels, usual.filters, [(ids,)], lambda z: drawn_labels(z[0], generator, dim=-1), compare="losses"
    )
    assert torch.equal(usual.scores, expected)
    assert float(shares.scores.sum()) == pytest.approx(len(shares.filters.groups), rel=1e-6)
    assert float(usual.scores.sum()) != pytest.approx(len(shares.filters.groups), rel=1e-2)
    assert classes_dim((ids,), net(ids)) == -1
    assert classes_dim((torch.randn(2, 3),), torch.randn(2, 3, 7)) == 1


def test_the_report_counts_what_the_plan_removed(net: nn.Module, batches: Batches) -> None:
    """A filter that was dead before, in a group that is kept, goes as well: it was not decided, and it is counted."""
    x = batches[0][0]
    with torch.no_grad():
        net.bare.weight[2] = net.bare.bias[2] = 0
    catalyst = extcon_cli.Catalyst(net, (x[:2],), ratio=0.5, score_steps=4, shrink_steps=10, keep=["bare"])
    loop(net, catalyst, torch.optim.SGD([p for n, p in net.named_parameters() if "bare" not in n], lr=0.05), batches)
    assert catalyst.decided is not None
    assert int(catalyst.decided.sum()) == 13
    contraction = catalyst.contract()
    assert contraction.filters == 14
    assert {group.name: int(mask.sum()) for group, mask in contraction.removed.items()}["bare"] == 1
    assert net.bare.out_channels == 5


def test_scoring_with_frozen_weights(net: nn.Module, batches: Batches) -> None:
    catalyst = extcon_cli.Catalyst(net, (batches[0][0],), ratio=0.3, shrink_steps=3)
    catalyst.score(batches, lambda batch: F.cross_entropy(net(batch[0]), batch[1]))
    assert catalyst.decided is not None
    assert int(catalyst.decided.sum()) == round(0.3 * 26)


def test_misuse_is_named(net: nn.Module, batches: Batches) -> None:
    x = batches[0][0]
    with pytest.raises(UsageError, match="between 0 and 1"):
        extcon_cli.Catalyst(net, (x,), ratio=1.0)
    catalyst = extcon_cli.Catalyst(net, (x,), score_steps=1)
    with pytest.raises(UsageError, match="scoring"):
        catalyst.contract()
    with pytest.raises(UsageError, match="before zero_grad"):
        catalyst.step()
    with pytest.raises(UsageError, match="no filter"):
        extcon_cli.Catalyst(nn.Linear(3, 2), (torch.randn(2, 3),))
