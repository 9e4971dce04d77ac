"""The bundled architectures: what they compute, that they trace, and that nothing in them fixes a size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from extcon_cli.checkpoint.zoo import MLP, ZOO, cifar_resnet20, cifar_resnet56


def example(name: str, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, *ZOO[name].input_shape())


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ZOO)
def test_gives_a_score_a_class_and_exports(name: str) -> None:
    module, x = ZOO[name].build(num_classes=7).eval(), example(name)
    y = module(x)
    assert y.shape == (2, 7)
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), y)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ZOO)
def test_scripts(name: str) -> None:
    module, x = ZOO[name].build().eval(), example(name)
    torch.testing.assert_close(torch.jit.script(module)(x), module(x))


@pytest.mark.parametrize("name", ["digits_resnet", "cifar_resnet20", "convnet"])
def test_works_at_other_resolutions(name: str) -> None:
    assert ZOO[name].build().eval()(torch.randn(1, ZOO[name].input_shape()[0], 48, 40)).shape == (1, 10)


def test_arguments_change_the_input_shape() -> None:
    assert ZOO["digits_resnet"].input_shape(channels=3, widths=[8, 8]) == (3, 8, 8)
    assert ZOO["mlp"].input_shape(in_features=5) == (5,)


def test_digits_resnet_has_what_pruning_should_meet() -> None:
    module = ZOO["digits_resnet"].build()
    assert parameters(module) == 174_970
    projections = [m for name, m in module.named_modules() if "shortcut" in name and isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size, m.stride) for m in projections] == [((1, 1), (2, 2))] * 2
    small = ZOO["digits_resnet"].build(widths=[4, 8], blocks=1, num_classes=3)
    assert small(example("digits_resnet")).shape == (2, 3)


def test_cifar_resnets_are_those_of_he_et_al() -> None:
    assert parameters(cifar_resnet20()) == 269_722  # the public checkpoint's count
    assert parameters(cifar_resnet56()) == 853_018


def test_the_shortcut_of_cifar_resnets_pads_half_on_each_side() -> None:
    block = cifar_resnet20().layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)  # only the shortcut is left
    x = torch.rand(1, 16, 4, 4)
    expected = torch.zeros(1, 32, 2, 2)
    expected[:, 8:24] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_mlp_is_linear_maps_with_activations_between() -> None:
    mlp, x = MLP(4, [3], 2, activation="tanh"), torch.randn(5, 2, 2)
    first, _, last = mlp.layers
    torch.testing.assert_close(
        mlp(x), F.linear(F.linear(x.flatten(1), first.weight, first.bias).tanh(), *last.parameters())
    )
    assert isinstance(MLP(4, [], 1).layers[0], nn.Linear)


def test_mlp_refuses_an_unknown_activation() -> None:
    with pytest.raises(ValueError, match=r"should be one of relu, .*, not 'rellu'"):
        MLP(activation="rellu")


def test_the_paper_s_2c2d_has_its_number_of_parameters() -> None:
    assert parameters(ZOO["deepobs_2c2d"].build()) == 1_703_370  # Jung & Lee, section V-B


def test_an_activation_for_each_hidden_layer() -> None:
    module = MLP(2, [10, 10], 1, activation=["identity", "relu"])
    assert [type(layer) for layer in module.layers] == [nn.Linear, nn.Identity, nn.Linear, nn.ReLU, nn.Linear]
    with pytest.raises(ValueError, match="one for each of the widths"):
        MLP(2, [10, 10], 1, activation=["relu"])
