"""Simpler forms of an architecture, and what hidden guidance measures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.bypass.abstraction import Guided, Skipped, contracted, hidden_layers, strength
from extcon_cli.checkpoint.zoo.digits_resnet import DigitsResNet
from extcon_cli.errors import UsageError

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
FORMS = pytest.mark.parametrize(("share", "widths", "hidden"), [(0.25, 2, 1), (0.5, 4, 3), (0.9, 7, 6)])


def stack() -> nn.Sequential:
    """Seven hidden layers of eight units."""
    torch.manual_seed(0)
    hidden = [part for _ in range(6) for part in (nn.Linear(8, 8), nn.ReLU())]
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), *hidden, nn.Linear(8, 3))


def test_guidance_falls_in_a_straight_line_to_half_of_the_way() -> None:
    assert [strength(done, 100) for done in (0, 25, 50, 100)] == [1.0, 0.5, 0.0, 0.0]
    assert strength(0, 1) == 1.0


@FORMS
def test_a_simpler_form_has_a_share_of_the_channels_and_of_the_blocks(share: float, widths: int, hidden: int) -> None:
    network = stack()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    simpler = contracted(network, (X,), share)
    linear = [layer for layer in simpler if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [widths] * hidden + [3]
    assert simpler(X).shape == (64, 3)
    assert len(simpler) == len(network), "names stay"
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_what_is_left_of_a_layer_is_scaled_by_the_inputs_it_has_lost() -> None:
    network = stack()
    simpler = contracted(network, (X,), 0.5)
    assert torch.equal(simpler[0].weight, network[0].weight[:4])
    assert torch.equal(simpler[-1].bias, network[-1].bias)
    torch.testing.assert_close(simpler[-1].weight, network[-1].weight[:, :4] * 2**0.5)


def test_blocks_that_halve_the_resolution_stay_and_no_part_of_a_block_goes_alone() -> None:
    x = torch.randn(2, 1, 8, 8)
    network = DigitsResNet(widths=(4, 8), blocks=3)
    simpler = contracted(network, (x,), 0.34)
    skipped = [name for name, child in simpler.named_modules() if isinstance(child, Skipped)]
    assert skipped == ["stages.0.1", "stages.0.2", "stages.1.1", "stages.1.2"]
    assert simpler.fc.in_features == 3
    assert simpler(x).shape == (2, 10)


def test_what_has_no_simpler_form_is_refused() -> None:
    with pytest.raises(UsageError, match="no channels of it can go, and no block repeats"):
        contracted(nn.Linear(6, 2), (X,), 0.5)


class Squeezed(nn.Module):
    """A single unit is squeezed away."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.wide(x).relu().squeeze())


def test_what_does_not_run_any_more_is_refused() -> None:
    assert contracted(Squeezed(), (X,), 0.25).wide.out_features == 2
    with pytest.raises(UsageError, match="ask for larger shares"):
        contracted(Squeezed(), (X,), 0.1)


def test_hidden_layers_are_those_with_a_matrix_but_the_last() -> None:
    assert hidden_layers(stack(), (X,)) == ("0", "2", "4", "6", "8", "10", "12")
    block = [f"stages.0.0.{name}" for name in ("conv1", "conv2", "shortcut.0")]
    resnet = DigitsResNet(widths=(4,), blocks=1)
    resnet.stages[0][0].shortcut = nn.Sequential(nn.Conv2d(4, 4, 1))
    assert hidden_layers(resnet, (torch.randn(2, 1, 8, 8),)) == ("stem.0", *block)


def guidance(guided: Guided, x: Tensor) -> Tensor:
    """The penalty of a batch, as a training step comes to it."""
    guided.train()(x)
    teacher = guided.teacher
    assert teacher is not None
    with torch.no_grad():
        teacher(x)
    found = guided.penalty()
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_a_network_that_its_maps_make_the_guide_has_nothing_to_learn_from_it(kind: str) -> None:
    network: nn.Module = stack() if kind == "mlp" else DigitsResNet(widths=(4,), blocks=1).eval()
    x = X if kind == "mlp" else torch.randn(4, 1, 8, 8)
    guided = Guided(network, network, (x,))  # its own guide
    with torch.no_grad():
        for mapped in guided.maps:
            mapped.weight.copy_(torch.eye(len(mapped.weight)))
            mapped.bias.zero_()
    assert guidance(guided, x) < 1e-12
    guided.strength = 0.0
    assert guided.teacher is None


def test_guidance_reaches_the_network_and_its_maps_and_leaves_the_guide_alone() -> None:
    network = stack()
    guide = contracted(network, (X,), 0.5)
    guided = Guided(network, guide, (X,))
    assert torch.equal(guided.eval()(X), network(X))
    assert len(guided.maps) == 3
    whole = guidance(guided, X)
    guided.strength = 0.5
    torch.testing.assert_close(guidance(guided, X), whole / 2)
    whole.backward()
    assert all(p.grad is not None for p in (*network[0].parameters(), *guided.maps.parameters()))
    assert all(p.grad is None for p in guide.parameters())
    assert {id(p) for p in guided.parameters()}.isdisjoint(id(p) for p in guide.parameters())
    assert guided.penalty() is None, "what was heard is let go of"


def test_the_share_of_the_variance_is_one_where_the_map_knows_only_the_mean() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    guided = Guided(network, network, (X,))
    with torch.no_grad():
        shown = network[0](X)
        guided.maps[0].weight.zero_()
        guided.maps[0].bias.copy_(shown.mean(0))
        expected = shown.var(0, correction=0).mean() / shown.var(correction=0)
    torch.testing.assert_close(guidance(guided, X), expected)
