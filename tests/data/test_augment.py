"""The gather of a whole batch does what a plain loop over the images does."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from extcon_cli.data.augment import crop_and_flip


def one_by_one(images: Tensor, down: Tensor, right: Tensor, mirror: Tensor, padding: int) -> Tensor:
    results = []
    for image, top, left, flip in zip(images, down.tolist(), right.tolist(), mirror.tolist(), strict=True):
        channels, height, width = image.shape
        padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
        padded[:, padding : padding + height, padding : padding + width] = image
        crop = padded[:, top : top + height, left : left + width]
        results.append(crop.flip(-1) if flip else crop)
    return torch.stack(results)


@settings(max_examples=60)
@given(
    batch=st.integers(1, 5),
    channels=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    padding=st.integers(0, 3),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    seed=st.integers(0, 10_000),
)
def test_equals_a_loop_over_the_images(batch, channels, height, width, padding, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (batch, channels, height, width), generator=generator).to(dtype)
    down, right = torch.randint(2 * padding + 1, (2, batch), generator=generator)
    mirror = torch.randint(2, (batch,), generator=generator).bool()

    fast = crop_and_flip(images, down, right, mirror, padding)

    assert fast.dtype == dtype
    assert torch.equal(fast, one_by_one(images, down, right, mirror, padding))


def test_the_middle_crop_without_mirror_is_the_image():
    images = torch.randint(256, (4, 3, 6, 5), dtype=torch.uint8)
    middle, no = torch.full((4,), 2), torch.zeros(4, dtype=torch.bool)
    assert torch.equal(crop_and_flip(images, middle, middle, no, 2), images)
