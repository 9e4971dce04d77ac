"""A linear map of the graph is the matrix product that it says it is, whatever its operator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.channels.analysis.trace import trace
from extcon_cli.channels.maps import StoredMap


class Times(nn.Module):
    """x W (+ b) with the weight stored as (inputs, outputs)."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.bias = nn.Parameter(torch.randn(6)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


MAPS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(4, 6), (3, 5, 4)),
    "times": (Times(bias=False), (3, 5, 4)),
    "addmm": (Times(bias=True), (7, 4)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=2), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), padding=(2, 0)), (2, 4, 8, 7)),
    "same": (nn.Conv2d(4, 6, (5, 3), padding="same", dilation=(1, 2)), (2, 4, 8, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 6)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4), (2, 4, 5, 6)),
    "conv3d": (nn.Conv3d(4, 6, 2, stride=(1, 2, 1)), (2, 4, 4, 5, 3)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 3), (2, 4, 5)),
    "transposed2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 4)),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, (3, 2), stride=(1, 3), dilation=2, groups=2), (2, 4, 5, 4)),
    "transposed3d": (nn.ConvTranspose3d(4, 6, 2, stride=2, padding=1), (2, 4, 3, 4, 3)),
}


@pytest.fixture(params=MAPS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, StoredMap]:
    torch.manual_seed(0)
    module, size = MAPS[request.param]
    module = module.double()
    x = torch.randn(*size).double()
    graph = trace(module, (x,))
    (found,) = [found for node in graph.nodes if (found := StoredMap.of(graph, node)) is not None]
    return module, x, found


def test_a_row_times_the_matrix_is_an_output(case: tuple[nn.Module, Tensor, StoredMap]) -> None:
    module, x, found = case
    y = module(x).detach()
    picked = torch.randperm(found.positions(y))[:50]
    weight = module.get_parameter(found.weight).detach()
    for chunk, rows in found.rows(x, picked):
        given = torch.einsum("pgc,goc->pgo", rows, found.matrix(weight)).flatten(1)
        given = given + (module.get_parameter(found.bias).detach() if found.bias is not None else 0)
        torch.testing.assert_close(given, found.outputs(y, chunk), rtol=1e-12, atol=1e-12)


def test_a_change_of_the_matrix_changes_the_weight(case: tuple[nn.Module, Tensor, StoredMap]) -> None:
    module, _, found = case
    weight = module.get_parameter(found.weight).detach().clone()
    before = found.matrix(weight).clone()
    change = torch.randn_like(before)
    found.add_to(weight, change)
    torch.testing.assert_close(found.matrix(weight), before + change)


def test_only_filters_of_single_channels_are_depthwise(case: tuple[nn.Module, Tensor, StoredMap]) -> None:
    module, _, found = case
    assert found.depthwise == (module is MAPS["depthwise"][0])


def test_a_computed_weight_is_no_map() -> None:
    class Computed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight * 2)

    graph = trace(Computed(3, 3), (torch.randn(2, 3),))
    assert not [node for node in graph.nodes if StoredMap.of(graph, node) is not None]
