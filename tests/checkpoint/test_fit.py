"""Checkpoints as people save them: inside other modules, beside losses and averages, with versions of their modules."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import extcon_cli
from extcon_cli.checkpoint.fit import fit
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.write import write
from extcon_cli.checkpoint.zoo import DigitsResNet
from extcon_cli.errors import CheckpointError
from extcon_cli.events import Event, Noted
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.recipe.schema import ModelSpec, Recipe

X = torch.randn(2, 1, 8, 8)


class Wrapped(nn.Module):
    """What a training script makes of a network."""

    def __init__(self, name: str, **others: nn.Module) -> None:
        super().__init__()
        self.add_module(name, DigitsResNet(widths=(4, 8), blocks=1))
        for other, module in others.items():
            self.add_module(other, module)
        self.register_buffer("num_updates", torch.tensor(3))


class MyNet(nn.Module):
    """A class that no library knows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "model.pt")
    return folder / "model.pt"


def opened(path: Path, **model: object) -> tuple[nn.Module, list[Event]]:
    events: list[Event] = []
    spec = {"arch": "zoo:digits_resnet", "kwargs": {"widths": [4, 8], "blocks": 1}, **model}
    return open_model(path, Recipe(model=ModelSpec.model_validate(spec)), emit=events.append).module, events


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "model.", "net.backbone._orig_mod.", "a.b.c.d."])
def test_any_common_prefix_is_taken_off_and_said(tmp_path: Path, prefix: str) -> None:
    module = DigitsResNet().eval()
    path = saved(tmp_path, {prefix + name: tensor for name, tensor in module.state_dict().items()})
    events: list[Event] = []
    found = open_model(path, Recipe(), emit=events.append)
    assert found.arch.arch == "zoo:digits_resnet"
    assert torch.equal(found.module(X), module(X))
    assert [event.message for event in events if isinstance(event, Noted)] == [f"{path}: taken off its names: {prefix}"]
    assert torch.equal(extcon_cli.load(path)(X), module(X))


def test_what_is_no_part_of_the_network_is_named_and_left_out(tmp_path: Path) -> None:
    module = Wrapped(
        "net", criterion=nn.CrossEntropyLoss(torch.ones(10)), ema_model=DigitsResNet(widths=(4, 8), blocks=1)
    ).eval()
    net = module.net
    path = saved(tmp_path, {"state_dict": module.state_dict(), "optimizer": {"state": {0: torch.ones(2)}}})
    found, events = opened(path)
    assert torch.equal(found(X), net(X))
    [warning] = [event.message for event in events if isinstance(event, Noted) and event.warning]
    assert "left out, no part of zoo:digits_resnet" in warning
    assert "num_updates, criterion.weight" in warning
    full = {f"net.{name}": tensor for name, tensor in DigitsResNet().state_dict().items()}
    path = saved(tmp_path, {**full, "criterion.weight": torch.ones(10)})
    with pytest.warns(UserWarning, match=r"left out.*1 tensor \(criterion\.weight\)"):
        extcon_cli.load(path)


@pytest.mark.parametrize("extra", ["more.weight", "layer9.weight", "net.more.weight", "head.weight"])
def test_what_could_be_a_part_of_the_network_is_never_left_out_unasked(tmp_path: Path, extra: str) -> None:
    state = {f"net.{name}": tensor for name, tensor in DigitsResNet().state_dict().items()}
    with pytest.raises(CheckpointError, match="fits no architecture"):
        extcon_cli.load(saved(tmp_path, {**state, extra: torch.ones(3)}))


def test_an_addition_inside_does_not_fit_a_named_architecture_either(tmp_path: Path) -> None:
    state = {f"net.{name}": tensor for name, tensor in DigitsResNet(widths=(4, 8), blocks=1).state_dict().items()}
    with pytest.raises(CheckpointError, match=r"1 unexpected \(more\.weight\)"):
        opened(saved(tmp_path, {**state, "net.more.weight": torch.ones(3)}))
    _, events = opened(saved(tmp_path, {**state, "head.weight": torch.ones(3)}))
    assert any(isinstance(event, Noted) and event.warning and "head.weight" in event.message for event in events)


def test_several_networks_that_fit(tmp_path: Path) -> None:
    state = DigitsResNet(widths=(4, 8), blocks=1).state_dict()
    both = {f"{part}.{name}": tensor for part in ("left", "right") for name, tensor in state.items()}
    with pytest.raises(CheckpointError, match=r"several networks that fit .*left\., right\."):
        opened(saved(tmp_path, both))


def test_a_layer_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    big = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 64), nn.Linear(64, 64))
    [best, *_] = fit(nn.Linear(4, 2).state_dict(keep_vars=True), big.state_dict())
    assert not best.complete


def test_an_own_class_takes_the_tensors(tmp_path: Path) -> None:
    module, x = MyNet().eval(), torch.randn(2, 4)
    path = saved(tmp_path, {f"module.net.{name}": tensor for name, tensor in module.state_dict().items()})
    mine = MyNet().train()
    assert extcon_cli.load(path, model=mine) is mine
    assert not mine.training
    assert torch.equal(mine(x), module(x))
    with pytest.raises(CheckpointError, match="does not fit Linear"):
        extcon_cli.load(path, model=nn.Linear(2, 2))


def test_an_own_class_is_shrunk_as_the_checkpoint_says(tmp_path: Path) -> None:
    module, x = MyNet().eval(), torch.randn(2, 4)
    with torch.no_grad():
        module.body[0].weight[2:4] = 0
        module.body[0].bias[2:4] = 0
    removal = extcon_cli.remove_zeros(module, (x,))
    path = tmp_path / "m.safetensors"
    write(path, removal.module, Metadata(arch=None, plan=removal.plan.to_json()))
    with pytest.raises(CheckpointError, match="model="):
        extcon_cli.load(path)
    small = extcon_cli.load(path, model=MyNet())
    assert small.body[0].out_features == 4
    assert torch.equal(small(x), removal.module(x))
    assert torch.equal(extcon_cli.load(path, model=small)(x), removal.module(x))  # it is narrow already


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_versions_of_modules_are_kept(tmp_path: Path, prefix: str, bare: bool) -> None:
    """MNASNet asks for its own, and reads its first version in another way."""
    module = torchvision.models.mnasnet0_5(num_classes=3).eval()
    state = module.state_dict()
    named = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    if not bare:
        named._metadata = {f"{prefix}{name}".rstrip("."): entry for name, entry in state._metadata.items()}  # type: ignore[attr-defined]
    found = extcon_cli.load(saved(tmp_path, dict(named) if bare else named))
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(found(x), module(x))
    write(tmp_path / "m.safetensors", found, Metadata(arch="torchvision:mnasnet0_5", kwargs={"num_classes": 3}))
    assert torch.equal(extcon_cli.load(tmp_path / "m.safetensors")(x), module(x))


@pytest.mark.parametrize("noted", [{"": 3}, {"": {"version": "x"}}, {3: {"version": 1}}, {"": {"version": 10**40}}])
def test_versions_that_are_none(tmp_path: Path, noted: dict[object, object]) -> None:
    state = OrderedDict(DigitsResNet().state_dict())
    state._metadata = noted  # type: ignore[attr-defined]
    assert isinstance(extcon_cli.load(saved(tmp_path, state)), DigitsResNet)


def test_half_precision_is_known_behind_a_prefix(tmp_path: Path) -> None:
    module = DigitsResNet().bfloat16()
    path = saved(tmp_path, {"net." + name: tensor for name, tensor in module.state_dict().items()})
    found = open_model(path, Recipe())
    floating = {name for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    assert found.precision == dict.fromkeys(floating, torch.bfloat16)
