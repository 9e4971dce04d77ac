"""Parts of a model that run in training only, such as auxiliary heads: they are shrunk with what they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.channels import channel_groups, coverage
from extcon_cli.channels.analysis import trace as tracing
from extcon_cli.channels.analysis.operator import Operator
from extcon_cli.channels.analysis.trace import trace
from extcon_cli.channels.compare import EXACT, compare
from extcon_cli.channels.modules import evaluating

C = 12
Remove = Callable[..., Any]


class Two(nn.Module):
    """A stem, a head, and in training another one."""

    def __init__(self, training_only: Callable[[Any, Tensor], Tensor], **extra: Any) -> None:
        super().__init__()
        self.stem, self.norm, self.block = nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.Conv2d(C, C, 3)
        self.head, self.other = nn.Linear(C, 3), nn.Sequential(nn.Dropout(0.5), nn.Linear(C, 8), nn.Linear(8, 3))
        self.training_only = training_only
        for name, value in extra.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.norm(self.stem(x)), inplace=True)
        z = self.head(F.relu(self.block(y)).mean((2, 3)))
        return (z, self.training_only(self, y)) if self.training else z


def head(m: Any, y: Tensor) -> Tensor:
    return m.other(y.mean((2, 3)))


def example() -> tuple[Tensor]:
    return (torch.randn(2, 3, 9, 9),)


@torch.no_grad()
def branching(module: nn.Module, x: Tensor) -> Any:
    """The outputs of the training branch with every layer in eval mode."""
    with evaluating(module):
        module.training = True
        return module(x)


def assert_exact(before: Any, after: Any) -> None:
    assert compare([(list(before), list(after), 1)]).relative <= EXACT


def group(channels: Any, name: str) -> Any:
    return next(group for group in channels.groups if group.name == name)


def test_it_goes_with_what_it_reads_and_gives_what_it_gave(remove_exactly: Remove) -> None:
    removal = remove_exactly(Two(head), example())
    assert removal.after.stem.out_channels == C // 2
    assert removal.after.other[1].in_features == C // 2
    assert removal.after.other[1].out_features == 4
    for before, after in zip(*(branching(m, *example()) for m in (removal.before, removal.after)), strict=True):
        assert before.shape == after.shape
    x = torch.randn(2, 3, 9, 9)
    assert_exact(branching(removal.before, x), branching(removal.after, x))
    sum(output.sum() for output in removal.after.train()(x)).backward()


def test_a_constant_is_folded_into_it_too(remove_exactly: Remove, kill_to_constants: Callable[..., None]) -> None:
    removal = remove_exactly(Two(head), example(), kill_to_constants)
    assert removal.after.other[1].in_features == C // 2
    x = torch.randn(2, 3, 9, 9)
    assert_exact(branching(removal.before, x), branching(removal.after, x))


def test_the_graph_holds_the_forward_pass_once() -> None:
    graph = trace(Two(head).eval(), example())
    names = [Operator(node).name for node in graph.nodes if node.op == "call_function"]
    assert names.count("conv2d") == 2
    assert names.count("linear") == 3
    assert "dropout" in names
    assert len(graph.nodes[-1].all_input_nodes) == 2


def test_a_model_with_nothing_unread_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    once = tracing._traced
    monkeypatch.setattr(tracing, "_traced", lambda m, *a: (seen.append(m.training), once(m, *a))[1])
    trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), example())
    assert seen == [False]
    trace(Two(head), example())
    assert seen == [False, False, True]


def test_modes_are_as_they_were() -> None:
    module = Two(head).train()
    module.norm.eval()
    trace(module, example())
    assert [child.training for child in module.children()] == [True, False, True, True, True]


@pytest.mark.parametrize("mode", [True, False])
def test_what_it_does_to_channels_holds(mode: bool) -> None:
    """A softmax over channels in training only keeps them; the same in eval mode has no other effect."""
    module = Two(lambda m, y: m.other(F.softmax(y, 1).mean((2, 3))) if mode else head(m, y)).eval()
    assert ("softmax" in group(channel_groups(module, example()), "stem").reason) == mode


def by_value(m: Any, y: Tensor) -> Tensor:
    return head(m, y) if y.sum() > 0 else head(m, 2 * y)


def test_one_that_cannot_be_traced_holds_on_to_what_it_reads(remove_exactly: Remove) -> None:
    removal = remove_exactly(Two(by_value), example())
    assert "in training mode" in group(removal.channels, "stem").reason
    assert removal.after.stem.out_channels == C
    assert removal.after.block.out_channels == C // 2


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_auxiliary_heads_of_torchvision(name: str, remove_exactly: Remove) -> None:
    build = getattr(torchvision.models, name)
    module = build(weights=None, num_classes=5, aux_logits=True, init_weights=False)
    x = torch.randn(2, 3, 96 if name == "googlenet" else 299, 96 if name == "googlenet" else 299)
    removal = remove_exactly(module, (x,), sizes=(2,))
    assert coverage(removal.before, removal.channels) > 0.99
    assert_exact(branching(removal.before, x), branching(removal.after, x))
