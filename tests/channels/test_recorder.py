"""The recorder: the same graph as torch.export's where it vouches for one, a refusal everywhere else."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch._subclasses.schema_check_mode import SchemaCheckMode

from extcon_cli.channels.analysis import trace as tracing
from extcon_cli.channels.analysis.groups import analyse
from extcon_cli.channels.analysis.operator import Operator
from extcon_cli.channels.analysis.recorder import NotRecorded, record
from extcon_cli.errors import TraceError

X = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    """A convolution, something in the middle, a linear head."""

    def __init__(self, middle: Callable[[Any, Tensor], Any] = lambda net, y: y) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.middle = middle
        self.plain = torch.ones(4, 1, 1)  # no buffer
        self.cache: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        return self.head(self.middle(self, self.norm(self.conv(x)).relu()).mean((2, 3)))


def masked(net: Net, y: Tensor) -> Tensor:
    """Adds a mask that is written to place by place, once it is seen through a view."""
    mask = y.new_zeros(6, 6)
    rows = mask[2:]
    mask[:3] = 1.0
    rows[1:, :2] = -100.0
    return y + mask


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(4, 6), nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0])


def groups(module: nn.Module, graph: tracing.Graph) -> list[tuple[Any, ...]]:
    """All that is said of the channel groups of a graph."""

    def places(slices: Any) -> set[tuple[str, int, bytes]]:
        return {(part.parameter, part.dim, part.index.tobytes()) for part in slices}

    found = analyse(module, graph).groups
    return [(g.name, g.size, g.reason, places(g.slices), places(g.zeroing_slices)) for g in found]


def inverse(net: Net, y: Tensor) -> Tensor:
    """Rows in another order and back, by a table that is made like another and filled."""
    order = y.mean((1, 2, 3)).argsort()
    back = torch.empty_like(order)
    back[order] = torch.arange(order.shape[0])
    return y[order][back]


def topped(y: Tensor) -> Tensor:
    largest, places = y.mean((2, 3), keepdim=True).topk(2, 0)
    largest /= 2.0
    return largest.sum(0, keepdim=True) * (places >= 0).all()


SAME = {
    "resnet18": (lambda: torchvision.models.resnet18(), X),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(), X),
    "shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(), torch.randn(2, 3, 64, 64)),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 2), 16), torch.randn(2, 3, 64, 64)),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64), torch.randn(2, 3, 32, 32)),
    "lstm": (Recurrent, torch.randn(2, 3, 4)),
    "a tensor that is no buffer": (lambda: Net(lambda net, y: y * net.plain), X),
    "a tensor made on the way": (lambda: Net(lambda net, y: y * torch.tensor(2.0) + torch.zeros(4, 1, 1)), X),
    "what it cannot follow": (lambda: Net(lambda net, y: y.cumsum(1)), X),
    "memory written to through views": (lambda: Net(masked), X),
    "a table like another": (lambda: Net(inverse), X),
    "one of several results in place": (lambda: Net(lambda net, y: y * topped(y)), X),
    "an operator in place": (lambda: Net(lambda net, y: y.mul_(2).add_(y)), X),
}


@pytest.mark.parametrize("name", SAME)
def test_the_groups_are_those_of_torch_export(name: str) -> None:
    build, x = SAME[name]
    module = build().eval()
    record(module, (x,), {})  # it does vouch
    assert groups(module, tracing.trace(module, (x,))) == groups(module, tracing.trace(module, (x,), exported=True))


def test_memory_that_is_written_to_is_no_constant() -> None:
    """The mask is zero when it is made; what is added to the channels later is not."""
    graph = tracing.trace(Net(masked).eval(), (X,))
    added = next(node for node in reversed(graph.nodes) if Operator(node).name == "add")
    assert Operator(added.all_input_nodes[1]).name == "overwritten"


def squeezed(net: Net, y: Tensor) -> Tensor:
    y.unsqueeze_(0)
    return y.squeeze(0)


def autocast(net: Net, y: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.norm(y).float()


UNRECORDED: dict[str, Callable[[Net, Tensor], Any]] = {
    "a value asked for": lambda net, y: y * y.sum().item(),
    "a branch on a value": lambda net, y: y if y.sum() > 0 else 2 * y,
    "values as a list": lambda net, y: y * y.mean((0, 2, 3)).tolist()[0],
    "values as an array": lambda net, y: y * float(y.numpy().sum()),
    "a tensor past the dispatcher": lambda net, y: y * net.conv.weight.data.sum(),
    "a shape that changes in place": squeezed,
    "autocast": autocast,
    "an exception": lambda net, y: y[:, :, :, 99],
}


@pytest.mark.parametrize("name", UNRECORDED)
def test_what_it_cannot_vouch_for_is_refused(name: str) -> None:
    with pytest.raises(NotRecorded):
        record(Net(UNRECORDED[name]).eval(), (X,), {})


def test_a_refusal_asks_torch_export_and_gives_its_message() -> None:
    with pytest.raises(TraceError, match=r"cannot be traced: .*data-dependent|DataDependent"):
        tracing.trace(Net(UNRECORDED["a branch on a value"]), (X,))


def test_tensors_of_another_kind_are_refused() -> None:
    class Special(Tensor):
        pass

    module = Net()
    module.conv.weight = nn.Parameter(module.conv.weight.detach().as_subclass(Special))
    with pytest.raises(NotRecorded):
        record(module, (X,), {})
    with pytest.raises(NotRecorded):
        record(Net(), (X.as_subclass(Special),), {})
    with pytest.raises(NotRecorded, match="scripted"):
        record(nn.Sequential(torch.jit.script(nn.Linear(3, 2))), (torch.randn(2, 3),), {})


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_is_as_before(fails: bool) -> None:
    def middle(net: Net, y: Tensor) -> Tensor:
        net.last = y
        net.cache.append(y)
        net.steps = net.steps + 1 if hasattr(net, "steps") else 1
        return y if not fails else y[:, :, :, 99]

    module = Net(middle).eval()
    before, held = copy.deepcopy(module.state_dict()), {id(p) for p in module.parameters()}
    attributes, random = set(vars(module)), torch.get_rng_state()
    try:
        record(module, (X,), {})
    except NotRecorded:
        assert fails
    assert set(vars(module)) == attributes
    assert module.cache == []
    assert {id(p) for p in module.parameters()} == held
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert not torch.compiler.is_compiling()


def test_what_the_recorder_uses_of_torch() -> None:
    """Internals without a promise: where one is gone, the recorder has to learn its successor."""
    from torch import _ops

    source = inspect.getsource(_ops._set_mode_pre_dispatch)
    assert "SchemaCheckMode" in source
    assert hasattr(SchemaCheckMode, "__torch_dispatch__")
    assert hasattr(torch._C, "_EnablePythonDispatcher")
    assert torch._C.DispatchKey.PreDispatch
    assert not torch.compiler._is_compiling_flag
    assert not torch.compiler._is_exporting_flag
