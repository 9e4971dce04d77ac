"""What no input reaches is named and held; other shapes of inputs reach it, or the user lets it be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from extcon_cli.checkpoint.architectures import build

from .conftest import Extcon

NET = '''
from torch import nn

class Net(nn.Module):
    """Another layer for larger images."""

    def __init__(self):
        super().__init__()
        self.a, self.big = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.b, self.c = nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        y = self.a(x).relu()
        return self.c(self.b(self.big(y) if x.shape[-1] > 14 else y).relu()).mean((2, 3))
'''


@pytest.fixture
def arguments(place: Path) -> list[str]:
    """A network whose first layer has lost three channels, and how to open it."""
    (place / "net.py").write_text(NET)
    net = build(f"{place}/net.py:Net", {}, trust_code=True)
    with torch.no_grad():
        for name in ("a.weight", "a.bias"):
            net.get_parameter(name)[:3] = 0
        for name in ("big.weight", "big.bias"):
            net.get_parameter(name)[:3] = 0
    torch.save(net.state_dict(), place / "net.pt")
    return ["net.pt", "--trust-code", "--set", "model.arch=net.py:Net", "--set", "model.input_shape=[3,12,12]"]


def test_it_is_named_and_what_may_feed_it_stays(extcon: Extcon, arguments: list[str], place: Path) -> None:
    done = extcon("inspect", *arguments, "--json", "--report", "report.md")
    assert done.code == 0, done.err
    assert done.document["unreached"] == ["big"]
    reasons = {group["name"]: group["reason"] for group in done.document["groups"]}
    assert "big" in reasons["a"]
    assert "does not reach" in reasons["a"]
    assert reasons["b"] is None
    assert "`big`" in (place / "report.md").read_text()
    assert "no input reaches big" in extcon("inspect", *arguments).out.replace("\n", " ")
    refused = extcon("prune", *arguments, "--already-zero")
    assert refused.code == 4
    assert "none of them can go" in refused.error


def test_other_shapes_reach_it(extcon: Extcon, arguments: list[str]) -> None:
    done = extcon("prune", *arguments, "--already-zero", "--json", "--set", "model.examples=[[3,18,18]]")
    assert done.code == 0, done.err
    assert done.document["removal"]["filters"] == 3
    assert done.document["unreached"] == []
    assert done.document["certificate"]["exact"]


def test_the_user_may_let_it_be(extcon: Extcon, arguments: list[str]) -> None:
    done = extcon("inspect", *arguments, "--json", "--set", "model.ignore_unreached=true")
    assert {group["name"]: group["reason"] for group in done.document["groups"]}["a"] is None
