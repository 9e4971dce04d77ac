"""Extensions by units as a specification: no output moves when they are put in, none when they are taken out."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from extcon_cli.averaging import measure_statistics
from extcon_cli.bypass.attach import Bypass
from extcon_cli.bypass.strategies.narrowed import Narrowing
from extcon_cli.bypass.strategies.revive import constants_on, revive
from extcon_cli.bypass.strategies.widen import widen
from extcon_cli.bypass.units import by_name, units
from extcon_cli.channels import channel_groups, difference
from extcon_cli.channels.compare import EXACT, EXACT_DOUBLE, random_batches
from extcon_cli.checkpoint.zoo.digits_resnet import Block, DigitsResNet
from extcon_cli.errors import UsageError


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


MODELS = {
    "perceptron": (perceptron, (4, 6)),
    "convolutions": (convolutions, (4, 3, 9, 9)),
    "residual": (lambda: torchvision.models.resnet18(num_classes=5), (4, 3, 32, 32)),
    "transformer": (lambda: torchvision.models.VisionTransformer(32, 16, 2, 4, 32, 64, num_classes=5), (4, 3, 32, 32)),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, dtype: torch.dtype) -> tuple[nn.Module, tuple[Tensor]]:
    torch.manual_seed(0)
    make, shape = MODELS[request.param]
    model = make().to(dtype).eval()
    for parameter in model.parameters():  # some heads begin at zero
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model, (torch.randn(shape, dtype=dtype),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_widening_changes_no_output_and_contracts_to_the_old_shapes(
    case: tuple[nn.Module, tuple[Tensor]], dtype: torch.dtype
) -> None:
    (model, example), bound = case, EXACT if dtype == torch.float32 else EXACT_DOUBLE
    wide, added = widen(model, channel_groups(model, example), 0.5)
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in model.parameters())
    assert difference(model, wide, random_batches(example)).relative <= bound
    narrowing = Narrowing(wide, example, added, steps=4)
    narrowing.decide([torch.randn_like(example[0]) for _ in range(3)], lambda x: wide(x).square().mean())
    optimizer = torch.optim.SGD(wide.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(4):
        assert not narrowing.met
        optimizer.zero_grad()
        wide.train()(torch.randn_like(example[0])).square().mean().backward()
        optimizer.step()
        narrowing.step()
    assert narrowing.met
    narrow = narrowing.narrow().module
    assert difference(wide, narrow, random_batches(example)).relative <= bound
    assert {n: t.shape for n, t in narrow.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert repr(narrow) == repr(model)


def test_units_that_were_dead_before_are_the_first_to_go() -> None:
    torch.manual_seed(0)
    model, example = perceptron(), (torch.randn(4, 6),)
    with torch.no_grad():
        model[0].weight[:3], model[0].bias[:3] = 0.0, 0.0  # type: ignore[index]
    wide, added = widen(model, channel_groups(model, example), 0.25)
    narrowing = Narrowing(wide, example, added, steps=1)
    with torch.no_grad():
        for parameter in wide.parameters():  # the new units are in use
            parameter.add_(0.1 * torch.randn_like(parameter) * (parameter != 0))
        wide[2].weight[:, 8:] = 1.0  # type: ignore[index]
    narrowing.decide([torch.randn(9, 6)], lambda x: wide(x).square().mean())
    assert narrowing.flow is not None
    assert narrowing.flow.decided[:10].nonzero().flatten().tolist() == [0, 1]
    narrowing.step()
    assert narrowing.narrow().module[0].weight.shape == (8, 6)  # type: ignore[index]


def test_units_of_which_one_would_have_to_stay_are_not_added() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1)
    ).eval()  # sigmoid(0) is read through zero padding: only a carrier could hold it
    example = (torch.randn(2, 2, 9, 9),)
    wide, added = widen(model, channel_groups(model, example), 0.5)
    assert by_name(added) == {"2": 3}
    assert wide(example[0]).shape == model(example[0]).shape


def test_a_layer_norm_counts_its_units_and_is_not_widened() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    with pytest.raises(UsageError, match="no layer can be widened"):
        widen(model, channel_groups(model, (torch.randn(2, 4),)), 0.5)


class Attention(nn.Module):
    """Four heads of three channels over tokens of eight."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.read = nn.ModuleList([nn.Linear(8, 12) for _ in range(3)])
        self.write, self.heads = nn.Linear(12, 8), heads

    def forward(self, x: Tensor) -> Tensor:  # (N, T, 8) -> (N, T, 8)
        q, k, v = (part(x).view(*x.shape[:2], self.heads, 3).transpose(1, 2) for part in self.read)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.write(mixed.transpose(1, 2).flatten(2))


def test_heads_are_added_and_go_again_where_the_forward_pass_counts_them_itself() -> None:
    torch.manual_seed(0)
    model, x = Attention(-1), torch.randn(3, 5, 8)
    bypass = Bypass(model, (x,), opt_1=2, opt_2=6, method="widen")
    assert bypass.model.write.in_features == 18, "half as many heads more"
    assert torch.allclose(bypass.model(x), model(x), atol=1e-6)
    optimizer = torch.optim.SGD(bypass.model.parameters(), lr=0.1)
    while not bypass.done:
        bypass.model(x).square().mean().backward()
        optimizer.step()
        bypass.step()
        optimizer.zero_grad()
    assert bypass.contract().relative <= 1e-5
    assert model.write.in_features == 12


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_dead_units_get_new_weights_and_the_outputs_on_the_data_stay(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 3)).double()
    x = torch.randn(200, 6).double()
    with torch.no_grad():
        model[0].weight[:3], model[0].bias[:3] = 0.0, torch.tensor([-5.0, 0.0, 0.5]).double()  # type: ignore[index]
    before = copy.deepcopy(model)
    found = units(model, channel_groups(model, (x[:2],)))
    assert by_name(revive(model, found, constants_on(model, found, [(x,)]))) == {"0": 3}
    assert difference(before, model, [(x,)]).relative < EXACT_DOUBLE
    after = units(model, channel_groups(model, (x[:2],)))
    assert revive(copy.deepcopy(model), after, constants_on(model, after, [(x,)])) == {}
    model(x).square().mean().backward()
    assert (model[2].weight.grad[:, :3] != 0).all()  # type: ignore[index, union-attr]


def test_a_constant_read_through_padding_is_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 3, padding=1))
    x = torch.randn(20, 2, 5, 5)
    with torch.no_grad():
        model[0].weight[0] = 0.0  # type: ignore[index]
    found = units(model, channel_groups(model, (x[:2],)))
    assert revive(model, found, constants_on(model, found, [(x,)])) == {}


def test_the_dead_branches_of_a_residual_net_come_back_and_no_output_moves() -> None:
    torch.manual_seed(0)
    module = DigitsResNet(widths=(4, 8), blocks=2)
    x, y = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))
    measure_statistics(module, [(x,)])
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    for block in blocks:
        nn.init.constant_(block.bn1.bias, -50.0)  # no unit inside a branch ever fires
    before = copy.deepcopy(module.eval())
    torch.nn.functional.cross_entropy(before(x), y).backward()
    assert not any(block.conv1.weight.grad.any() for block in before.modules() if isinstance(block, Block))
    found = units(module, channel_groups(module, (x,)))
    revived = revive(module, found, constants_on(module, found, [(x,)]))
    assert sum(revived.values()) == 4 + 4 + 8 + 8
    assert difference(before, module, [(x,)]).relative <= EXACT
    torch.nn.functional.cross_entropy(module(x), y).backward()
    assert all(block.conv2.weight.grad.any() for block in blocks)  # which begins at zero: then conv1 moves too
