"""Ridge regression from normal equations is what a solver of least squares finds."""

from __future__ import annotations

import pytest
import torch

from extcon_cli.catalyst.least_squares import NormalEquations


@pytest.mark.parametrize("centred", [True, False])
def test_the_solution_is_the_least_squares_one(centred: bool) -> None:
    torch.manual_seed(0)
    x, r = torch.randn(300, 2, 5).double() + 2, torch.randn(300, 2, 3).double() - 1
    x[:, 1, 2] = 0  # a column that says nothing
    equations = NormalEquations()
    for part, lack in zip(x.split(70), r.split(70), strict=True):
        equations.add(part, lack)
    change, shift = equations.solve(1e-12, centred=centred)
    for group in range(2):
        said = torch.cat([x[:, group], torch.ones(300, 1).double() * centred], 1)
        wanted = torch.linalg.lstsq(said, r[:, group], driver="gelsd").solution.T
        torch.testing.assert_close(change[group], wanted[:, :5], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(shift[group], wanted[:, 5], rtol=1e-7, atol=1e-9)
    assert not change[1, :, 2].any()


def test_ridge_pulls_to_no_change() -> None:
    torch.manual_seed(0)
    equations = NormalEquations()
    x = torch.randn(50, 1, 4)
    equations.add(x, x @ torch.randn(4, 2))
    sizes = [float(equations.solve(ridge, centred=True)[0].norm()) for ridge in (1e-6, 1.0, 1e6)]
    assert sizes[0] > sizes[1] > 1000 * sizes[2]


@pytest.mark.parametrize("centred", [True, False])
def test_fewer_positions_than_columns_are_solved_for_as_they_are(centred: bool) -> None:
    torch.manual_seed(0)
    x, r = torch.randn(30, 2, 40).double() + 1, torch.randn(30, 2, 3).double()
    x[:, 1, 7] = 0
    few, twice = NormalEquations(), NormalEquations()
    for part, lack in zip(x.split(20), r.split(20), strict=True):
        few.add(part, lack)
    for _ in range(2):  # the same moments, of more positions than columns
        twice.add(x, r)
    assert few.rows
    assert not twice.rows
    for found, wanted in zip(few.solve(1e-2, centred=centred), twice.solve(1e-2, centred=centred), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
