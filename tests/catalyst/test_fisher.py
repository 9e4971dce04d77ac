"""R^T R is S, or a sketch whose mean is S."""

from __future__ import annotations

import torch

from extcon_cli.catalyst.fisher import Fisher


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
