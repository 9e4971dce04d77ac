"""Random architectures with random deaths: whatever the plan removes, no output moves; and what is plain, goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Remove = Callable[..., Any]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
}
DEATHS = ("zero_channels", "zero rows", "gamma 0", "constant bias", "laplacian", "masked rows")


class Unit(nn.Module):
    """Convolution, perhaps batch norm, an activation, by a drawn specification; keeps the resolution if padded."""

    def __init__(self, read: int, written: int, spec: dict[str, Any]) -> None:
        super().__init__()
        groups = spec["groups"] if read % spec["groups"] == 0 == written % spec["groups"] else 1
        if spec["depthwise"]:
            groups, written = read, read * spec["multiplier"]
        kernel = spec["kernel"]
        padding = kernel // 2 if spec["padded"] else 0
        self.conv = nn.Conv2d(read, written, kernel, 1, padding, groups=groups, bias=spec["bias"])
        self.norm = nn.BatchNorm2d(written, affine=spec["affine"]) if spec["norm"] else nn.Identity()
        self.act = ACTIVATIONS[spec["act"]]
        self.written = written

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Random(nn.Module):
    """A stem, then drawn steps, then a head: linear on the flattened map or on its mean."""

    def __init__(self, stem: dict[str, Any], steps: list[tuple[str, list[dict[str, Any]]]], head: str) -> None:
        super().__init__()
        self.stem = Unit(3, 6, {**stem, "depthwise": False, "groups": 1})
        self.kinds = [kind for kind, _ in steps]
        self.blocks = nn.ModuleList()
        width = self.stem.written
        for kind, (first, second) in steps:
            block = nn.ModuleList()
            if kind == "plain":
                block.append(Unit(width, first["width"], first))
                width = block[0].written
            elif kind in ("residual", "gate"):
                same = {"depthwise": False, "padded": True}
                block.append(Unit(width, first["width"], {**first, **same}))
                block.append(Unit(block[0].written, width, {**second, **same}))
            elif kind == "concat":
                for spec in (first, second):
                    block.append(Unit(width, spec["width"], {**spec, "padded": True}))
                width = block[0].written + block[1].written
            elif kind in ("twice", "tied"):
                block.append(Unit(width, width, {**first, "depthwise": False, "padded": True}))
                if kind == "tied":
                    block.append(Unit(width, width, {**first, "depthwise": False, "padded": True}))
                    block[1].conv.weight = block[0].conv.weight
            self.blocks.append(block)
        self.flat = head == "flatten"
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(width * (4 if self.flat else 1), 5, bias=head != "mean without bias")
        self.last = nn.Linear(5, 3)
        for child in self.modules():
            if isinstance(child, nn.BatchNorm2d):
                child.running_mean.normal_(0.0, 0.3)
                child.running_var.uniform_(0.5, 2.0)
                if child.affine:
                    nn.init.uniform_(child.weight, 0.5, 1.5)
                    nn.init.normal_(child.bias, 0.0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for kind, block in zip(self.kinds, self.blocks, strict=True):
            if kind in ("plain", "twice", "tied"):
                for unit in block:
                    y = unit(unit(y)) if kind == "twice" else unit(y)
            elif kind == "residual":
                y = F.relu(y + block[1](block[0](y)))
            elif kind == "gate":
                y = y * torch.sigmoid(block[1](block[0](y.mean((2, 3), keepdim=True))))
            elif kind == "concat":
                y = torch.cat([unit(y) for unit in block], 1)
            elif kind == "max":
                y = F.max_pool2d(y, 3, 2, 1)
            elif kind == "average":
                y = F.avg_pool2d(y, 2, 1)
            elif kind == "shuffle" and y.shape[1] % 2 == 0:
                left, right = y.chunk(2, 1)
                n, c, h, w = y.shape
                y = torch.cat([F.relu(left), right], 1).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.pool(y).flatten(1) if self.flat else y.mean((2, 3))
        return self.last(torch.tanh(self.hidden(y)))


units = st.fixed_dictionaries(
    {
        "width": st.sampled_from([4, 6, 8]),
        "kernel": st.sampled_from([1, 3]),
        "padded": st.booleans(),
        "bias": st.booleans(),
        "groups": st.sampled_from([1, 1, 2]),
        "depthwise": st.sampled_from([False, False, False, True]),
        "multiplier": st.sampled_from([1, 2]),
        "norm": st.booleans(),
        "affine": st.sampled_from([True, True, True, False]),
        "act": st.sampled_from(sorted(ACTIVATIONS)),
    }
)
kinds = st.sampled_from(
    ["plain", "plain", "residual", "concat", "gate", "twice", "tied", "max", "average", "shuffle"],
)
steps = st.lists(st.tuples(kinds, st.lists(units, min_size=2, max_size=2)), min_size=1, max_size=3)
heads = st.sampled_from(["flatten", "mean", "mean without bias"])
deaths = st.lists(st.sampled_from(DEATHS), min_size=1, max_size=3)


def killer(kinds_of_death: list[str], number: int) -> Callable[[nn.Module, Any], None]:
    """Random filters of random layers die, or look as if they did, in the ways that were drawn."""

    @torch.no_grad()
    def kill(module: nn.Module, channels: Any) -> None:
        generator = torch.Generator().manual_seed(number)

        def some(size: int) -> Tensor:
            return torch.randperm(size, generator=generator)[: max(1, size // 3)]

        if "zero_channels" in kinds_of_death:
            tensors = dict(module.named_parameters(remove_duplicate=False))
            for group in channels.groups:
                if group.prunable:
                    rows = some(group.size).numpy()
                    for part in group.zeroing_slices:
                        tensors[part.parameter][torch.from_numpy(part.index[rows].ravel())] = 0.0
        for layer in module.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer is not module.last:
                if "zero rows" in kinds_of_death:
                    rows = some(len(layer.weight))
                    layer.weight[rows] = 0.0
                    if layer.bias is not None:
                        layer.bias[rows] = 0.0
                if "constant bias" in kinds_of_death and layer.bias is not None:
                    rows = some(len(layer.weight))
                    layer.weight[rows] = 0.0
                    layer.bias[rows] = torch.randn(len(rows), generator=generator)
                if "masked rows" in kinds_of_death:  # the bias stays as it is, some columns go too
                    layer.weight[some(len(layer.weight))] = 0.0
                    layer.weight[:, some(layer.weight.shape[1])] = 0.0
                if "laplacian" in kinds_of_death and layer.weight.dim() == 4 and layer.kernel_size == (3, 3):
                    edge = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
                    layer.weight[0] = edge
            if "gamma 0" in kinds_of_death and isinstance(layer, nn.BatchNorm2d) and layer.affine:
                layer.weight[some(len(layer.weight))] = 0.0

    return kill


def check(remove_exactly: Remove, stem: Any, drawn: Any, head: str, how: list[str], number: int) -> None:
    torch.manual_seed(number)
    module = Random(stem, drawn, head)
    example = (torch.randn(2, 3, 11, 11),)
    other = [(torch.randn(2, 3, 14, 14),)]
    removal = remove_exactly(module, example, killer(how, number), others=other, sizes=(1, 2))
    if how == ["zero_channels"]:
        prunable = [group for group in removal.channels.groups if group.prunable]
        assert prunable, "the neurons before the last layer at least"
        assert removal.gone >= sum(max(1, group.size // 3) for group in prunable)


@seed(0)
@settings(max_examples=60, database=None, suppress_health_check=list(HealthCheck))
@given(stem=units, drawn=steps, head=heads, how=deaths, number=st.integers(0, 10**6))
def test_nothing_moves(
    remove_exactly: Remove,
    stem: dict[str, Any],
    drawn: list[tuple[str, list[dict[str, Any]]]],
    head: str,
    how: list[str],
    number: int,
) -> None:
    check(remove_exactly, stem, drawn, head, how, number)


@pytest.mark.slow
@seed(1)
@settings(max_examples=600, database=None, suppress_health_check=list(HealthCheck))
@given(stem=units, drawn=steps, head=heads, how=deaths, number=st.integers(0, 10**6))
def test_nothing_moves_in_many(
    remove_exactly: Remove,
    stem: dict[str, Any],
    drawn: list[tuple[str, list[dict[str, Any]]]],
    head: str,
    how: list[str],
    number: int,
) -> None:
    check(remove_exactly, stem, drawn, head, how, number)
