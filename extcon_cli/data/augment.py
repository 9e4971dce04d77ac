"""Random crop and flip of a batch of images in one gather. Draws nothing at random: the loader says what to do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def crop_and_flip(
    images: Tensor,  # (B, C, H, W), any dtype
    down: Tensor,  # (B,) int64, first row of each crop in the padded image, 0 .. 2 * padding
    right: Tensor,  # (B,) int64, first column
    mirror: Tensor,  # (B,) bool, mirror left and right after the crop
    padding: int,  # zero pixels on each side
) -> Tensor:  # (B, C, H, W)
    """Each image padded with zeros, cropped at its own place to its old size, and mirrored where asked."""
    batch, channels, height, width = images.shape
    if padding:
        images = functional.pad(images, (padding,) * 4)
    rows = torch.arange(height, device=images.device) + down[:, None]  # (B, H)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = torch.where(mirror[:, None], width - 1 - columns, columns) + right[:, None]  # (B, W)
    places = rows[:, :, None] * images.shape[-1] + columns[:, None, :]  # (B, H, W) in the flat padded image
    places = places.reshape(batch, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, places).view(batch, channels, height, width)
