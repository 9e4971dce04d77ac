"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.errors import DataError
from extcon_cli.tasks.base import Batch, Metrics, Task, distributions

IGNORED = 255
"""The class of pixels that do not count."""


class Segmentation(Task):
    """A class a pixel. Outputs (B, K, h, w), targets (B, H, W) int64, 255 where it does not count.

    Smaller outputs are enlarged to the targets' size, bilinearly. Cross entropy over the pixels; mIoU, and the share
    of pixels that are right. A teacher guides as in a classification, at every pixel.
    """

    name, figure, higher = "segmentation", "miou", True
    logits = True

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs, size = super().forward(model, batch), batch[1].shape[-2:]
        if outputs.dim() != 4 or outputs.shape[-2:] == size:
            return outputs  # check() refuses what are no maps
        return functional.interpolate(outputs.float(), size=size, mode="bilinear", align_corners=False)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        total = functional.cross_entropy(
            outputs.float(), targets, ignore_index=IGNORED, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / (targets != IGNORED).sum().clamp_min(1)

    def distill(self, outputs: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        student, guide = (maps.movedim(1, -1).flatten(0, -2) for maps in (outputs, teacher))
        return distributions(student, guide, self.temperature)

    def metrics(self) -> Metrics:
        return Overlap()

    def count(self, targets: Tensor) -> float:
        return float((targets != IGNORED).sum())

    def check(self, outputs: Tensor, targets: Tensor, classes: int | None) -> int | None:
        if outputs.dim() != 4:
            raise DataError(f"a segmentation should give (classes, H, W); the model gives {tuple(outputs.shape[1:])}")
        given = outputs.shape[1]
        if classes is not None and classes > given:
            raise DataError(f"masks hold classes up to {classes - 1}, but the model has {given} outputs a pixel")
        return given


class Overlap:
    """mIoU, the mean over the classes that occur or were found, and the share of pixels that are right."""

    adds_up = ("pixels",)

    def __init__(self) -> None:
        self.pixels: Tensor | None = None  # (K, K) int64: of each class, taken for each class

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        classes, counted = outputs.shape[1], targets != IGNORED
        pairs = targets[counted] * classes + outputs.argmax(1)[counted]
        found = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        self.pixels = found if self.pixels is None else self.pixels + found

    def compute(self) -> Mapping[str, float]:
        assert self.pixels is not None, "nothing was measured"
        pixels = self.pixels.double()
        both, either = pixels.diag(), pixels.sum(0) + pixels.sum(1) - pixels.diag()
        shares = both[either > 0] / either[either > 0]
        return {"miou": float(shares.mean()), "pixel_accuracy": float(both.sum() / pixels.sum())}
