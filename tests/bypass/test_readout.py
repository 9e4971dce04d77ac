"""The read-out of random features: it finds what a model leaves over, and next to nothing where nothing is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from extcon_cli.bypass.readout import LARGEST, SIDE, read_out, rows

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(1200, 4, generator=GENERATOR)
ACROSS = X[:, 0] * X[:, 1]
Y = torch.bernoulli(torch.sigmoid(3 * ACROSS), generator=GENERATOR).long()


def loss_of(outputs: Tensor, rows: slice) -> float:
    return float(functional.cross_entropy(outputs[rows], Y[rows]))


def gain(outputs: Tensor) -> float:
    """On the last 400 samples, of what was fitted on the first 800."""
    first, last = slice(800), slice(800, None)
    found = read_out(X[first], outputs[first], lambda given: functional.cross_entropy(given, Y[first]))
    return 1 - loss_of(outputs + found(X), last) / loss_of(outputs, last)


def test_what_no_linear_model_can_express_is_found_and_nothing_is_where_nothing_is_left() -> None:
    nothing, all_of_it = torch.zeros(1200, 2), torch.stack([torch.zeros(1200), 3 * ACROSS], 1)
    assert gain(nothing) > 0.15
    assert gain(all_of_it) < 0.02


def test_the_same_is_found_again_at_any_scale_of_the_inputs() -> None:
    outputs, fit = torch.zeros(1200, 2), lambda given: functional.cross_entropy(given, Y)
    once = read_out(X, outputs, fit)(X)
    assert torch.equal(once, read_out(X, outputs, fit)(X))
    assert torch.allclose(once, read_out(1024 * X, outputs, fit)(1024 * X))


def test_of_large_images_the_features_see_means_and_of_tokens_nothing() -> None:
    images = torch.rand(8, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    seen = rows(images)
    assert seen is not None
    assert seen.shape == (8, 3 * SIDE**2)
    assert torch.allclose(seen.mean(), images.mean(), atol=1e-2)
    found = read_out(seen, torch.zeros(8, 2), lambda given: functional.cross_entropy(given, Y[:8]))
    assert found(seen).shape == (8, 2)
    assert rows(torch.zeros(8, 5, dtype=torch.long)) is None
    assert rows(torch.zeros(8, LARGEST + 1)) is None
