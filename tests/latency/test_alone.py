"""Layers by themselves: every kind of linear map runs in every runtime, with its shape."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from extcon_cli.channels import channel_groups
from extcon_cli.channels.layers import LayerShape, PlacedLayer, Product, averaged, linear_layers
from extcon_cli.latency.alone import alone, frame
from extcon_cli.latency.runtimes import Setting
from extcon_cli.report.measure import measure

LAYERS = {
    "conv": LayerShape(4, 8, (2, 6, 6), (3, 3), (2, 2), (1, 1), (1, 1)),
    "depthwise": LayerShape(8, 8, (1, 6, 6), (3, 3), (1, 1), (1, 1), (1, 1), groups=8),
    "grouped": LayerShape(8, 4, (1, 6, 6), (1, 1), (1, 1), (0, 0), (1, 1), groups=2),
    "dilated": LayerShape(4, 4, (1, 9), (3,), (1,), (2,), (2,)),
    "transposed": LayerShape(4, 6, (1, 5, 5), (2, 2), (2, 2), (0, 0), (1, 1), transposed=True),
    "matrix": LayerShape(5, 7, (3,)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_every_kind_runs(runtime: str, name: str) -> None:
    if find_spec(runtime) is None or (runtime == "onnxruntime" and find_spec("onnx") is None):
        pytest.skip(f"{runtime} is not installed")
    setting = Setting(runtime, 1, threads=1)
    alone(LAYERS[name], setting)()
    around = frame(LAYERS[name], setting)
    assert (around is not None) == (runtime != "torch" and name != "matrix")
    if around is not None:
        around()


def test_narrower_depthwise_maps_stay_depthwise() -> None:
    assert LAYERS["depthwise"].at(4, 4).groups == 4
    assert LAYERS["grouped"].at(4, 2).groups == 2


class Everything(nn.Module):
    """Two convolutions, one of them depthwise, a matrix, and a product of computed values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, padding="same", groups=6)
        self.read = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (N, 3, 8, 8) -> (N, 16, 16)
        tokens = self.read(self.depthwise(self.conv(x).relu()).flatten(2).transpose(1, 2))
        return tokens @ tokens.transpose(1, 2)


def test_layers_are_read_off_the_graph_at_any_batch_size() -> None:
    example = (torch.randn(2, 3, 8, 8),)
    found = list(linear_layers(channel_groups(Everything(), example), batch=5))
    assert [type(layer) for layer in found] == [PlacedLayer, PlacedLayer, PlacedLayer, Product]
    conv, depthwise, matrix, product = (layer.shape for layer in found)
    assert conv == LayerShape(3, 6, (5, 8, 8), (3, 3), (2, 2), (1, 1), (1, 1))
    assert depthwise == LayerShape(6, 6, (5, 4, 4), (3, 3), (1, 1), (1, 1), (1, 1), groups=6)
    assert matrix == LayerShape(6, 4, (80,))
    assert sum(shape.macs for shape in (conv, depthwise, matrix, product)) == 5 * measure(Everything(), example).macs


def test_what_a_norm_takes_the_mean_of_is_known() -> None:
    body = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)
    channels = channel_groups(nn.Sequential(*body), (torch.randn(2, 4),))
    assert [group.name for group in averaged(channels)] == ["0"]
    assert averaged(channel_groups(nn.Sequential(*body[2:]), (torch.randn(2, 8),))) == []
