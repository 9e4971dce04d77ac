"""The formulas of others' warm starts in benchmarks/warm_starts.py, each against what its paper says of the result."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.checkpoint.zoo.digits_resnet import DigitsResNet

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 4


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("warm_starts")


def net() -> DigitsResNet:
    torch.manual_seed(0)
    return DigitsResNet(4, (4, 6), blocks=1, channels=3)


class OneBatch:
    """A loader of one batch."""

    def __len__(self) -> int:
        return 1

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return X, Y


def stalled() -> Any:
    """What a formula asks of the benchmark's `Stalled`."""
    return SimpleNamespace(
        loader=OneBatch(),
        loss=lambda module, batch: nn.functional.cross_entropy(module(batch[0]), batch[1]),
        task=SimpleNamespace(forward=lambda module, batch: module(batch[0])),
        prepared=SimpleNamespace(recipe=SimpleNamespace(seed=0)),
    )


def test_shrink_and_perturb_scales_and_adds_its_noise(warm: ModuleType) -> None:
    before, after = net(), net()
    warm.shrink_and_perturb(after, stalled())
    noise = torch.cat([(q - 0.6 * p).flatten() for p, q in zip(before.parameters(), after.parameters(), strict=True)])
    assert float(noise.detach().std()) == pytest.approx(0.01, rel=0.1)


def test_fire_gives_each_tap_the_scaled_polar_factor(warm: ModuleType) -> None:
    before, after = net().double(), net().double()
    warm.fire(after, stalled())
    for name in ("stages.0.0.conv1", "fc"):
        old, new = (module.get_submodule(name).weight.flatten(2).movedim(-1, 0) if name != "fc"
                    else module.fc.weight[None] for module in (before, after))  # fmt: skip
        scale = (old.shape[1] / old.shape[2]) ** 0.5 / len(old)
        u, s, v = torch.linalg.svd(old, full_matrices=False)
        well = s.amin(1) > 0.1 * s.amax(1)  # ten steps do not bring tiny singular values to one
        assert well.any()
        torch.testing.assert_close(new[well], (scale * u @ v)[well], rtol=1e-3, atol=1e-3)


def test_dash_keeps_what_points_where_the_loss_falls_and_shrinks_the_rest_alike(warm: ModuleType) -> None:
    before, after = net().train(), net()
    warm.dash(after, stalled())
    kernels = before.stem[0].weight
    (gradient,) = torch.autograd.grad(stalled().loss(before, (X, Y)), kernels)
    cosine = torch.cosine_similarity(kernels.flatten(2), -gradient.flatten(2), dim=-1)
    expected = kernels * cosine.clamp(min=0.3)[..., None, None]
    torch.testing.assert_close(after.stem[0].weight, expected, rtol=1e-4, atol=1e-6)


def test_redo_recycles_dormant_units_without_changing_an_output(warm: ModuleType) -> None:
    module = net().eval()
    block = module.stages[1][0]
    with torch.no_grad():
        block.bn1.weight[2], block.bn1.bias[2] = 0.0, 0.0
    before, incoming = module(X), block.conv1.weight[2].clone()
    assert warm.redo(module, stalled(), 0) == 1
    assert not torch.equal(block.conv1.weight[2], incoming)
    assert not block.conv2.weight[:, 2].any()
    assert torch.equal(module.eval()(X), before)
