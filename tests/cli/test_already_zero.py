"""`prune --already-zero` and `verify`: anybody's zeros, without data or training, measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.utils import prune as masks

import extcon_cli
from extcon_cli.checkpoint.architectures import build
from extcon_cli.checkpoint.load import load

from .conftest import Extcon


@pytest.fixture
def zeroed(place: Path) -> Path:
    """The sample with a third of the filters of one layer at zero, and one more nearly so."""
    net = load(place / "digits_resnet.pt")
    with torch.no_grad():
        norm = net.get_submodule("stages.1.0.bn1")
        for vector in (norm.weight, norm.bias):
            vector[:10] = 0
            vector[10] = 1e-9
    path = place / "zeroed.pt"
    torch.save(net.state_dict(), path)
    return path


def test_zeros_go_and_verify_agrees(extcon: Extcon, zeroed: Path) -> None:
    done = extcon("prune", "zeroed.pt", "--already-zero", "--json")
    assert done.code == 0, done.err
    assert done.document["removal"]["filters"] == 10
    assert done.document["certificate"]["exact"]
    assert done.document["before"]["metrics"] == {}
    small = extcon_cli.load(zeroed.with_name("zeroed.pruned.safetensors"))
    assert small.get_submodule("stages.1.0.conv1").out_channels == 22

    same = extcon("verify", "zeroed.pt", "zeroed.pruned.safetensors", "--json")
    assert same.code == 0, same.err
    assert same.document["certificate"] == "these weights"
    shown = extcon("verify", "zeroed.pt", "zeroed.pruned.safetensors")
    assert "within 1e-05" in shown.out

    other = extcon("verify", "digits_resnet.pt", "zeroed.pruned.safetensors", "--junit", "gates.xml")
    assert other.code == 4
    assert 'failures="1"' in zeroed.with_name("gates.xml").read_text()
    assert "--max-diff" in other.error


def test_what_counts_as_zero_can_be_said(extcon: Extcon, zeroed: Path) -> None:
    done = extcon("prune", "zeroed.pt", "--already-zero", "--tolerance", "1e-8", "--json")
    assert done.code == 0, done.err
    assert done.document["removal"]["filters"] == 11


def test_a_tolerance_that_changes_outputs_writes_nothing(extcon: Extcon, zeroed: Path) -> None:
    done = extcon("prune", "zeroed.pt", "--already-zero", "--tolerance", "0.5")
    assert done.code == 4
    assert not zeroed.with_name("zeroed.pruned.safetensors").exists()


def test_nothing_dead_is_said(extcon: Extcon, place: Path) -> None:
    done = extcon("prune", "digits_resnet.pt", "--already-zero")
    assert done.code == 4
    assert "0 channels are dead" in done.error


def test_masks_of_torch_are_taken(extcon: Extcon, place: Path) -> None:
    net = build("zoo:convnet", {}, trust_code=False)
    first = next(module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d))
    for name in ("weight", "bias"):
        mask = torch.ones_like(getattr(first, name))
        mask[:3] = 0
        masks.custom_from_mask(first, name, mask)
    torch.save(net.state_dict(), place / "masked.pt")
    done = extcon(
        "prune", "masked.pt", "--already-zero", "--json", "--set", "model.arch=zoo:convnet",
        "--set", "model.input_shape=[3,32,32]",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.document["removal"]["filters"] == 3


@pytest.mark.parametrize(
    "args",
    [
        ["prune", "digits_resnet.pt", "--already-zero", "--ratio", "0.5"],
        ["prune", "digits_resnet.pt", "--tolerance", "1e-3"],
        ["prune", "digits_resnet.pt", "--already-zero", "--tolerance", "-1"],
        ["verify", "digits_resnet.pt", "digits_resnet.pt", "--max-diff", "-1"],
        ["verify", "digits_resnet.pt", "digits_resnet.pt", "--data", "dev"],
    ],
)
def test_misuse_is_named(extcon: Extcon, place: Path, args: list[str]) -> None:
    done = extcon(*args)
    assert done.code == 2
    assert done.error
