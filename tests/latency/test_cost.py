"""Latency as a cost: exact where times are products of widths, in between elsewhere, and scaled to the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from extcon_cli.channels import channel_groups
from extcon_cli.channels.layers import LayerShape
from extcon_cli.latency.cost import Layers
from extcon_cli.latency.runtimes import Setting
from extcon_cli.latency.table import Table


class Known(Table):
    """Times by a formula."""

    def __init__(self, seconds: Callable[[LayerShape], float]) -> None:
        super().__init__(Setting("torch", 1, threads=1))
        self.formula, self.asked = seconds, list[LayerShape]()

    def measure(self, shapes: Sequence[LayerShape]) -> list[float]:
        self.asked += shapes
        return [self.formula(shape) for shape in shapes]


def net() -> tuple[nn.Module, Layers]:
    module = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    return module, Layers.of(channel_groups(module, (torch.randn(3, 4),)), batch=1)


def affine(shape: LayerShape) -> float:
    return 1e-6 * (3 + 0.5 * shape.inputs + 0.25 * shape.outputs + 0.125 * shape.inputs * shape.outputs)


def test_times_that_are_products_of_widths_are_met_exactly() -> None:
    _, layers = net()
    shapes = [layer.shape for layer in layers.placed]
    whole = sum(map(affine, shapes))
    cost = layers.cost(Known(affine), whole)
    removed = np.array([20.0, 9.0])
    left = [LayerShape(4, 44, (1,)), LayerShape(44, 23, (1,)), LayerShape(23, 2, (1,))]
    assert cost.total(np.zeros(2)) == pytest.approx(1)
    assert cost.total(removed) == pytest.approx(sum(map(affine, left)) / whole, rel=1e-6)


def test_what_layers_do_not_take_lies_in_what_the_others_write() -> None:
    _, layers = net()
    taken = sum(affine(layer.shape) for layer in layers.placed)
    cost, own = layers.cost(Known(affine), 2 * taken), layers.cost(Known(affine), taken)
    none, all_gone = np.zeros(2), np.array([64.0, 32.0])
    assert cost.total(none) == pytest.approx(1)
    assert cost.total(all_gone) == pytest.approx(own.total(all_gone) / 2)  # the two activations write nothing any more
    half = np.array([32.0, 16.0])
    assert cost.total(half) == pytest.approx(own.total(half) / 2 + 0.25)


def test_a_table_that_says_more_than_the_whole_is_scaled_down() -> None:
    _, layers = net()
    taken = sum(affine(layer.shape) for layer in layers.placed)
    assert layers.cost(Known(affine), taken / 3).total(np.zeros(2)) == pytest.approx(1)


def test_no_removal_costs_time() -> None:
    """Times with jumps, which no sum of products can follow: the cost falls with every channel all the same."""
    _, layers = net()
    jumpy = Known(lambda shape: affine(shape) * (1.5 if shape.inputs % 16 else 1.0) + 1e-5 * (shape.outputs > 40))
    cost = layers.cost(jumpy, 1e-3)
    totals = [cost.total(np.array([gone, 0.0])) for gone in range(64)]
    assert all(after <= before + 1e-12 for before, after in pairwise(totals))


@pytest.mark.parametrize("multiple", [1, 4, 16, 32])
def test_the_multiple_that_suits_the_device_is_found(multiple: int) -> None:
    module = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 2))
    layers = Layers.of(channel_groups(module, (torch.randn(3, 8),)), batch=1)
    table = Known(lambda shape: 1e-6 * shape.macs * (1.3 if shape.outputs % multiple else 1.0))
    assert layers.multiple(table) == multiple


def test_small_models_need_no_multiple() -> None:
    assert net()[1].multiple(Known(affine)) == 1
