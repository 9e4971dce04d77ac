"""Inputs made without data: their statistics come near batch norm's, and a language model's text follows its logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.catalyst.synthesis import from_batch_norm, generated


@pytest.fixture
def net() -> nn.Sequential:
    """Two batch norms that saw inputs of another mean and spread than noise has."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, momentum=None)
    )
    net[1].momentum = None  # the plain mean over batches
    with torch.no_grad():
        for _ in range(4):
            net(torch.randn(32, 2, 8, 8) * torch.tensor([2.0, 0.3]).view(2, 1, 1) + 1.5)
    return net


def test_statistics_come_near_those_that_batch_norm_keeps(net: nn.Sequential) -> None:
    losses: list[float] = []
    (made,) = from_batch_norm(net, (2, 8, 8), 32, steps=120, after_step=losses.append)
    assert made.shape == (32, 2, 8, 8)
    assert losses[-1] < losses[0] / 20
    read = net.eval()[0](made)  # an independent look at the first batch norm
    kept = net[1].running_var.sqrt()
    assert ((read.mean((0, 2, 3)) - net[1].running_mean).abs() / kept).max() < 0.15
    assert (read.std((0, 2, 3)) / kept - 1).abs().max() < 0.15


def test_the_model_is_as_before_and_the_seed_decides(net: nn.Sequential) -> None:
    net[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first, again, other = (from_batch_norm(net, (2, 8, 8), 70, steps=2, seed=seed) for seed in (0, 0, 1))
    assert [len(batch) for batch in first] == [64, 6]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 7
    assert all(p.grad is None for p in net.parameters())


def test_without_statistics_there_is_nothing_to_go_by() -> None:
    with pytest.raises(ValueError, match="no batch norm"):
        from_batch_norm(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)), (3,), 8)


def test_text_follows_the_model() -> None:
    def next_of_five(tokens: Tensor) -> Tensor:
        """After t comes t + 1, modulo 5."""
        return 50.0 * nn.functional.one_hot((tokens + 1) % 5, 5)

    text = generated(next_of_five, 16, 7, seed=3)
    assert text.shape == (16, 7)
    assert torch.equal(text[:, 1:], (text[:, :-1] + 1) % 5)
    assert len(set(text[:, 0].tolist())) > 1
