"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """mIoU over the classes that occur, and the share of pixels that are right, by torchmetrics."""

    def __init__(self) -> None:
        self.figures: Any = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if self.figures is None:
            from torchmetrics import MetricCollection
            from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

            classes = outputs.shape[1]
            self.figures = MetricCollection(
                {
                    "miou": MulticlassJaccardIndex(classes, ignore_index=IGNORED),
                    "pixel_accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=IGNORED),
                }
            ).to(targets.device)
        self.figures.update(outputs.argmax(1), targets)

    def compute(self) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = self.figures.compute()
        return found
