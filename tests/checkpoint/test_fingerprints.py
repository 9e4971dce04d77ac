"""The index of fingerprints against the libraries themselves. Nothing is downloaded."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
import torchvision

import extcon_cli
from extcon_cli.checkpoint.fingerprints import INDEX, FreeDimension, fingerprint, lookup
from extcon_cli.checkpoint.identify import identify, shapes_of, weightless
from extcon_cli.checkpoint.said import told
from extcon_cli.events import Event, Noted
from extcon_cli.pipelines.first_look import first_look
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.recipe.schema import Recipe


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet10t", {"num_classes": 3}),
        ("resnet10t", {"num_classes": 3, "in_chans": 1}),
        ("vit_tiny_patch16_224", {"num_classes": 12}),
        ("vit_base_patch16_siglip_512", {"num_classes": 5}),  # it has no head by default
        ("convnext_atto", {}),
    ],
)
def test_timm_s_with_any_number_of_classes_and_channels(name: str, kwargs: dict[str, int]) -> None:
    with weightless():
        module = timm.create_model(name, **kwargs)
    [found] = [candidate for candidate in identify(module.state_dict()) if candidate.score == 1]
    with weightless():
        again = timm.create_model(found.arch.removeprefix("timm:"), **found.kwargs)
    assert type(again) is type(module)
    assert shapes_of(again) == shapes_of(module)


def test_what_shares_its_tensors_with_torchvision_s_is_named() -> None:
    with weightless():
        module = torchvision.models.resnet50(num_classes=4)
    [found] = identify(module.state_dict())
    assert (found.arch, found.kwargs) == ("torchvision:resnet50", {"num_classes": 4})
    assert "timm:resnetaa50" in found.rivals


def test_one_other_size_is_another_fingerprint() -> None:
    with weightless():
        shapes = dict(shapes_of(torchvision.models.resnet18()))
    assert next(arch for arch, _ in lookup(shapes)) == "torchvision:resnet18"
    assert not list(lookup({**shapes, "bn1.weight": (65,)}))
    assert not list(lookup({**shapes, "more.weight": (1,)}))
    assert not list(lookup({**shapes, "fc.bias": (999,)}))  # not the classes of fc.weight


def test_free_dimensions_do_not_count() -> None:
    free = (FreeDimension("fc.weight", 0, "num_classes"),)
    one, other = {"fc.weight": (3, 8)}, {"fc.weight": (5, 8)}
    assert fingerprint(one, free) == fingerprint(other, free)
    assert fingerprint(one) != fingerprint(other)


def test_the_index_is_small() -> None:
    assert INDEX.stat().st_size < 200_000


@pytest.fixture(scope="module")
def aa50() -> dict[str, torch.Tensor]:
    """An anti-aliased ResNet-50 of timm: the names and shapes of the plain one, another function."""
    torch.manual_seed(0)
    return timm.create_model("resnetaa50", num_classes=3).state_dict()


def test_the_same_name_is_the_same_function_in_both_libraries() -> None:
    for name in ("resnet18", "densenet121"):
        torch.manual_seed(0)
        one, other = torchvision.models.get_model(name).eval(), timm.create_model(name).eval()
        other.load_state_dict(one.state_dict())
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(one(x), other(x))


def test_what_could_be_another_function_is_never_taken_silently(tmp_path: Path, aa50: dict[str, torch.Tensor]) -> None:
    torch.save(aa50, tmp_path / "model.pt")
    with pytest.warns(UserWarning, match="taken for torchvision:resnet50.*timm:resnetaa50, timm:resnetblur50"):
        extcon_cli.load(tmp_path / "model.pt")
    events: list[Event] = []
    open_model(tmp_path / "model.pt", Recipe(), emit=events.append)
    assert any(isinstance(event, Noted) and event.warning for event in events)
    [found] = [row for row in first_look(tmp_path / "model.pt", Recipe(), None).findings if row.key == "model.arch"]
    assert found.doubtful


@pytest.mark.parametrize("says", ["arch", "args", "name", "config"])
def test_what_the_file_says_decides(tmp_path: Path, aa50: dict[str, torch.Tensor], says: str) -> None:
    more: dict[str, object] = {
        "arch": {"arch": "resnetaa50"},
        "args": {"args": Namespace(model="resnetaa50")},
    }.get(says, {})
    path = tmp_path / ("resnetaa50_a1h-4cf422b3.pth" if says == "name" else "model.pth")
    torch.save({"state_dict": aa50, **more}, path)
    if says == "config":
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetaa50", "num_classes": 3}))
    model = extcon_cli.load(path)
    assert isinstance(model.get_submodule("layer2.0.aa"), torch.nn.AvgPool2d)


def test_the_longest_name_that_stands_by_itself_is_the_one_that_is_said() -> None:
    names = ["efficientnet_b0", "tf_efficientnet_b0", "resnet50"]
    assert told(names, ["tf_efficientnet_b0-aa"]) == "tf_efficientnet_b0"
    assert told(names, ["my-efficientnet_b0"]) == "efficientnet_b0"
    assert told(names, ["resnet501", "myresnet50"]) is None
    assert told(names, ["resnet50", "efficientnet_b0"]) == "resnet50"
