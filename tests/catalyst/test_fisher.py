"""R^T R is S, or a sketch whose mean is S."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.fisher import Fisher
from extcon_cli.catalyst.saliency import compensated, drawn_labels
from extcon_cli.channels import channel_groups
from extcon_cli.channels.deferred import defer


def test_the_root_is_that_of_the_mean_over_samples() -> None:
    g = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = Fisher()
    assert not whole.reached
    for part in g.split(20):
        whole.add(part)
    whole.samples = 5
    expected = g.T @ g / 5
    assert whole.reached
    for _ in range(2):  # it may be asked for again
        assert torch.allclose(whole.root().T @ whole.root(), expected)


def test_a_sketch_has_few_rows_and_the_right_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    g = torch.randn(40, 12, generator=generator) * torch.linspace(0.1, 3, 12)
    rough, fine = Fisher(3), Fisher(20_000)
    for sketch in (rough, fine):
        for part in g.split(10):
            sketch.add(part)
        sketch.samples = 4
    expected = (g.T @ g / 4).double()
    assert rough.root().shape == (3, 12)
    assert (fine.root().T @ fine.root() - expected).norm() < 0.05 * expected.norm()


def test_scores_of_a_module_that_is_read_when_it_is_used_go_along_with_the_whole_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sketches of few rows, and few columns refitted together."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 48), nn.Tanh(), nn.Linear(48, 40), nn.Tanh(), nn.Linear(40, 5)).requires_grad_(
        False
    )
    with torch.no_grad():
        net[0].weight *= torch.linspace(0.2, 2, 48)[:, None]  # some matter more
        net[2].weight *= torch.linspace(0.2, 2, 40)[:, None]
    x = torch.randn(400, 12)
    channels = channel_groups(net, (x[:2],))
    filters = Filters.of(channels.groups)

    def scores(module: nn.Module) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return compensated(module, channels, filters, [(x,)], lambda outputs: drawn_labels(outputs[0], generator))

    expected = scores(net)
    monkeypatch.setattr("extcon_cli.channels.deferred.SMALL", 0)
    monkeypatch.setattr("extcon_cli.catalyst.saliency.COARSE", 16)
    deferred = copy.deepcopy(net)
    defer(deferred, torch.float32)
    found = scores(deferred)
    for span in filters.spans():
        ranks = torch.stack([values[span].argsort().argsort().double() for values in (expected, found)])
        assert not torch.equal(expected[span], found[span])
        assert torch.corrcoef(ranks)[0, 1] > 0.5, "0.46 to 0.85 over six seeds, of a third of the columns and rows"
