"""Random changes by name: a function of seed, epoch and sample, and nothing random where a model is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from extcon_cli.checkpoint.habits import habit
from extcon_cli.data.batchwise import mixup
from extcon_cli.data.datasets import Data, open_data
from extcon_cli.data.transforms import Views
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import AugmentSpec, DataSpec, ResizeSpec

EVERYTHING = {
    "random_resized_crop": [0.2, 1.0],
    "flip": True,
    "policy": "rand_augment",
    "erasing": 0.5,
    "mixup": 0.4,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("a", "b", "c"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{i}.png")
    return tmp_path


def opened(folder: Path, workers: int = 0, task: str = "classification", **augment: Any) -> Data:
    spec = DataSpec(
        dataset="image_folder", root=str(folder), workers=workers, batch_size=4, validation=0.0,
        augment=AugmentSpec(**augment),
    )  # fmt: skip
    return open_data(spec, task, input_shape=(3, 16, 16))


def same(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_any_step_is_the_same_in_any_process_and_at_any_time(folder: Path) -> None:
    here, there = opened(folder, **EVERYTHING), opened(folder, workers=2, **EVERYTHING)
    first = here.train_loader(device="cpu", seed=3)
    second = there.train_loader(device="cpu", seed=3)
    steps = {step: first.batch(step) for step in range(7)}
    for step in (5, 1, 2):
        assert same(second.batch(step), steps[step])
    assert not same(steps[0], steps[3])  # another epoch, other changes
    assert not same(here.train_loader(device="cpu", seed=4).batch(0), steps[0])


def test_measuring_is_not_random(folder: Path) -> None:
    plain, changed = opened(folder), opened(folder, **EVERYTHING)
    for split in ("test", "train"):
        for a, b in zip(plain.eval_loader(split, device="cpu"), changed.eval_loader(split, device="cpu"), strict=True):
            assert same(a, b)


@pytest.mark.parametrize(
    "augment",
    [{"random_resized_crop": [0.1, 0.3]}, {"policy": "trivial_augment"}, {"policy": "rand_augment"}, {"erasing": 1.0}],
)
def test_each_changes_the_pictures(folder: Path, augment: dict[str, Any]) -> None:
    plain, changed = (
        d.train_loader(device="cpu", seed=0).batch(1) for d in (opened(folder), opened(folder, **augment))
    )
    assert torch.equal(plain[1], changed[1])  # the same samples
    assert not torch.equal(plain[0], changed[0])


def test_mixup_is_the_formula() -> None:
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    mixed, shares = mixup((x, y), 5, classes=3, alpha=0.7)
    generator = np.random.default_rng(5)
    share, order = generator.beta(0.7, 0.7), generator.permutation(6)
    torch.testing.assert_close(mixed, float(share) * x + float(1 - share) * x[order])
    torch.testing.assert_close(shares.sum(1), torch.ones(6))
    assert shares[0, 0] >= share - 1e-6


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 3), np.float32), y=np.arange(9) % 3)
    for name, value in (("policy", "rand_augment"), ("erasing", 0.5), ("random_resized_crop", (0.5, 1.0))):
        spec = DataSpec(dataset="arrays", root=str(tmp_path / "d.npz"), augment=AugmentSpec(**{name: value}))
        with pytest.raises(DataError, match=rf"data.augment.{name} is for pictures read from files"):
            open_data(spec, "classification")
    spec = DataSpec(dataset="arrays", root=str(tmp_path / "d.npz"), augment=AugmentSpec(mixup=0.2))
    with pytest.raises(DataError, match="mixup needs a classification"):
        open_data(spec, "regression").train_loader(device="cpu", seed=0)
    with pytest.raises(ValueError, match="should rise"):
        AugmentSpec(random_resized_crop=(1.0, 0.5))


def test_pictures_become_inputs_as_the_library_does_it() -> None:
    torchvision = pytest.importorskip("torchvision")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
    for name in ("resnet18", "resnet50"):  # 224 of 256, and 224 of 232
        custom = habit(f"torchvision:{name}", {})
        assert custom is not None
        theirs = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        theirs.mean, theirs.std = [0.0] * 3, [1.0] * 3
        ours, _ = Views("classification", (3, 224, 224), AugmentSpec(), custom.resize)(picture, 0, training=False)
        assert float((ours / 255 - theirs(picture)).abs().max()) <= 1.01 / 255


def test_timm_s_configuration_is_known() -> None:
    pytest.importorskip("timm")
    custom = habit("timm:vit_tiny_patch16_224", {})
    assert custom is not None
    assert custom.resize == ResizeSpec(crop=0.9, interpolation="bicubic")
