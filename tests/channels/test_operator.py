"""How rules read an operator: its arguments by position or by name, however they were passed, and typed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extcon_cli.channels.analysis.axes import Analysis
from extcon_cli.channels.analysis.groups import analyse
from extcon_cli.channels.analysis.operator import FlowOperator, KnownOperator, Operator
from extcon_cli.channels.analysis.trace import trace


class Net(nn.Module):
    """A convolution, then `body`."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.body = nn.Conv2d(3, 4, 3, padding=(0, 1), groups=1), body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.conv(x))


def operator(name: str, body: Callable[[Tensor], Tensor] = F.relu) -> Operator:
    graph = trace(Net(body).eval(), (torch.randn(2, 3, 6, 6),))
    return next(op for op in map(Operator, graph.nodes) if op.node.op == "call_function" and op.name == name)


def test_an_argument_is_found_by_position_and_by_name() -> None:
    conv = operator("conv2d")
    assert conv.input(0) is conv.input("input") is conv.tensors[0]
    assert conv.input("weight") is conv.input(1)
    assert conv.integers("padding") == [0, 1]
    assert conv.shape == (2, 4, 4, 6)


def test_an_argument_that_was_not_passed_has_the_schemas_default() -> None:
    conv = operator("conv2d")
    assert conv.integer("groups") == 1
    assert conv.integers("dilation") in ([1], [1, 1])
    assert operator("softmax", lambda y: y.softmax(-1)).dim(4) == 3
    assert conv.value("nothing of the kind", "a default") == "a default"
    assert not conv.flag("nothing of the kind")


def test_a_keyword_argument_is_found_by_both() -> None:
    clamp = operator("clamp", lambda y: torch.clamp(y, max=0.5))
    assert clamp.value("max") == clamp.value(2) == 0.5
    assert clamp.value("min") is None


def test_an_in_place_operator_has_the_plain_name() -> None:
    assert operator("relu", lambda y: y.relu_()).node.target is torch.ops.aten.relu_.default


def test_running_it_replaces_the_first_arguments_only() -> None:
    taken = operator("slice", lambda y: y[:, 1:3])
    assert taken.run(torch.arange(8).reshape(2, 4)).tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (lambda op: op.input("groups"), "argument 'groups' of conv2d is 1, not a tensor, in conv"),
        (lambda op: op.inputs("weight"), "argument 'weight' of conv2d is .*, not a list of tensors, in conv"),
        (lambda op: op.integer("padding"), r"argument 'padding' of conv2d is \[0, 1\], not an integer, in conv"),
        (lambda op: op.integers(0), "argument 0 of conv2d is .*, not a list of integers, in conv"),
    ],
)
def test_another_kind_of_argument_is_refused_by_name_and_line(ask: Callable[[Operator], object], wanted: str) -> None:
    with pytest.raises(TypeError, match=wanted):
        ask(operator("conv2d"))


def test_the_channels_and_the_name_of_what_it_reads() -> None:
    module = Net(F.relu).eval()
    graph = trace(module, (torch.randn(2, 3, 6, 6),))
    analysis = analyse(module, graph).analysis
    conv, relu = (
        FlowOperator(node, analysis)
        for node in graph.nodes
        if node.op == "call_function" and Operator(node).name in ("conv2d", "relu")
    )
    assert (conv.parameter("weight"), conv.parameter("bias"), conv.parameter(0)) == ("conv.weight", "conv.bias", None)
    assert conv.axes("stride") == ()
    assert conv.axes("input") == (None,) * 4
    assert [axis is not None for axis in relu.axes(0)] == [False, True, False, False]


def test_a_reason_names_the_line_and_no_reason_is_kept_without_channels() -> None:
    conv, analysis = operator("conv2d"), Analysis()
    op = FlowOperator(conv.node, analysis)
    op.freeze([None], "stays")
    assert analysis.frozen == []
    axis = analysis.add_parameter("w", (3,))[0]
    op.freeze([axis], "stays")
    assert [reason for _, reason in analysis.frozen] == [f"stays in {conv.where}"]


def test_what_is_known_of_what_it_reads_and_of_numbers() -> None:
    conv = operator("conv2d")
    known = {node: torch.full((1,) * len(node.meta["val"].shape), 2.0) for node in conv.tensors}
    op = KnownOperator(conv.node, known)
    assert op.constant("bias").tolist() == [2.0]
    assert op.full("bias").tolist() == [2.0] * 4
    assert op.constant("groups").item() == 1.0
    assert op.unknown().shape == (1, 1, 1, 1)
    assert op.unknown().isnan().all()
