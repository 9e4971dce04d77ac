"""Mirror images as a specification: an extended layer is an ordinary one of twice the width, and nothing moves."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from extcon_cli.bypass.extension import Extended, extend
from extcon_cli.bypass.strategies.mirror import Mirror, extend_mirrored, mirror, mirrors, odd_slope
from extcon_cli.bypass.strategies.narrowed import Narrowing
from extcon_cli.channels import channel_groups, difference
from extcon_cli.channels.compare import EXACT_DOUBLE, random_batches
from extcon_cli.checkpoint.zoo import ZOO


def perceptron(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), activation, nn.Dropout(0.0), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, padding=1, stride=2), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


MODELS = {
    "relu": (lambda: perceptron(nn.ReLU()), (6,), ["_1"]),
    "gelu": (lambda: perceptron(nn.GELU()), (6,), ["_1"]),
    "tanh gelu": (lambda: perceptron(nn.GELU("tanh")), (6,), ["_1"]),
    "leaky": (lambda: perceptron(nn.LeakyReLU(0.2)), (6,), ["_1"]),
    "softplus": (lambda: perceptron(nn.Softplus()), (6,), ["_1"]),
    "convolutions": (convolutions, (3, 9, 9), ["_2", "_4"]),
    "residual": (
        lambda: torchvision.models.resnet18(num_classes=5),
        (3, 32, 32),
        [f"layer{n}_{block}_relu" for n in (1, 2, 3, 4) for block in (0, 1)],
    ),
    "2c2d": (lambda: ZOO["deepobs_2c2d"].build(), (3, 32, 32), ["classifier_1"]),
}


def extended(model: nn.Module, x: Tensor) -> tuple[Extended, list[Mirror]]:
    """Extended where there are mirror images, with a random D."""
    chosen, found = extend_mirrored(model, channel_groups(model, (x,)), (x,))
    for delta in chosen.deltas:
        nn.init.normal_(delta, std=0.5)
    return chosen, found


@pytest.mark.parametrize("name", MODELS)
def test_the_mirrored_model_gives_what_the_extended_one_gives(name: str) -> None:
    make, shape, sites = MODELS[name]
    torch.manual_seed(0)
    model, x = make().double().eval(), torch.randn(4, *shape).double()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.bias)
            nn.init.uniform_(part.weight)
            part.running_mean.normal_()  # type: ignore[union-attr]
    psi, found = extended(model, x)
    assert [item.site.name for item in found] == sites
    wide, added = mirror(model, found, {item.site: psi.psi(item.site).delta for item in found})
    assert sum(added.values()) == sum(item.site.width for item in found)
    assert difference(psi, wide, random_batches((x,))).relative < 1e-12
    assert difference(psi, model, random_batches((x,))).relative > 1e-4  # D does something
    assert torch.allclose(psi.train()(x), wide.train()(x), rtol=1e-9)  # with the statistics of the batch as well


class Elsewhere(nn.Module):
    """The first activation is read by a maximum, the second twice, the third by the sum with what comes before it."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.c[1](torch.max_pool2d(torch.relu(self.c[0](x)), 2))
        x = torch.relu(self.c[2](x))
        x = self.c[3](x) * x.sigmoid()
        y = self.c[4](x)
        return self.c[5](torch.relu(y) + y)


def test_what_is_not_linear_in_the_activation_has_no_mirror_image() -> None:
    model, x = Elsewhere().eval(), torch.randn(2, 4, 8, 8)
    psi = extend(model, (x,), form="relaxed")
    assert len(psi.sites) == 4
    assert not mirrors(model, channel_groups(model, (x,)), psi)


@given(st.floats(0, 0.9))
def test_the_slope_of_the_odd_part_is_measured(slope: float) -> None:
    assert odd_slope(nn.LeakyReLU(slope)) == pytest.approx(1 + slope)
    assert odd_slope(nn.ELU(1.0 + slope)) is None


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid(), nn.Mish(), nn.ReLU6(), nn.SELU()])
def test_others_have_none(activation: nn.Module) -> None:
    assert odd_slope(activation) is None


def test_what_dead_and_always_active_units_have_learnt_in_d_survives_the_contraction() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.randn(200, 6).double()
    with torch.no_grad():
        model[0].bias[:4], model[0].bias[4:] = -9.0, 9.0  # type: ignore[index]
    psi, found = extended(model.eval(), x[:2])
    wide, added = mirror(model, found, {found[0].site: psi.psi(found[0].site).delta})
    narrowing = Narrowing(wide, (x[:2],), added, steps=1)
    narrowing.decide([x], lambda batch: wide(batch).square().mean())
    narrowing.step()
    narrow = narrowing.narrow().module
    assert narrow[0].weight.shape == model[0].weight.shape  # type: ignore[index]
    assert difference(psi, narrow, [(x,)]).relative < EXACT_DOUBLE
    assert difference(model, narrow, [(x,)]).relative > 1e-2
