"""The index of fingerprints against the libraries themselves. Nothing is downloaded."""

from __future__ import annotations

import pytest
import timm
import torchvision

from extcon_cli.checkpoint.fingerprints import INDEX, FreeDimension, fingerprint, lookup
from extcon_cli.checkpoint.identify import identify, shapes_of, weightless


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
