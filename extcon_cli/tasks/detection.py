"""Objects in pictures, by torchvision's detectors: they take a list of pictures and make their losses themselves.

What they do behind their last layer (choosing boxes) depends on the data, and no graph can be had of it. So `ready`
lets a detector take a stack of pictures as well: then it gives the raw outputs of its layers, which is what is traced,
measured and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from extcon_cli.channels.compare import Inputs
from extcon_cli.errors import DataError, UsageError
from extcon_cli.tasks.base import Batch, Task

DRAWS = ("dropout", "norm")
"""What a module's class is called whose training mode is more than giving losses."""


class Detection(Task):
    """Boxes and their classes. Inputs: a list of (3, H, W) floats; targets: a list of {boxes (n, 4) xyxy, labels (n,)}.

    The loss is the sum of the detector's own; mAP at IoU 0.5 to 0.95, and at 0.5. A teacher cannot guide: what a
    detector gives is a list of boxes.
    """

    name, figure, higher = "detection", "map", True
    teachable = by_sample = False

    def forward(self, model: nn.Module, batch: Batch) -> Mapping[str, Any]:
        """`losses`, and `boxes` where no gradient is asked for. A model in eval mode keeps its norms and dropout so."""
        pictures, targets = list(batch[0]), batch[1]
        if model.training:
            return {"losses": model(pictures, targets), "boxes": []}
        with giving_losses(model):
            losses = model(pictures, targets)
        return {"losses": losses, "boxes": [] if torch.is_grad_enabled() else model(pictures)}

    def loss(self, outputs: Mapping[str, Any], targets: Any) -> Tensor:
        total: Tensor = sum(outputs["losses"].values(), torch.zeros(()).to(next(iter(outputs["losses"].values()))))
        return total

    def metrics(self) -> AveragePrecision:
        return AveragePrecision()

    def ready(self, model: nn.Module) -> None:
        if hasattr(model, "transform") and hasattr(model, "backbone") and "forward" not in vars(model):
            vars(model)["forward"] = MethodType(_forward, model)

    def arguments(self, inputs: list[Tensor]) -> Inputs:
        """The pictures as a stack, those of the first one's size."""
        return (torch.stack([picture for picture in inputs if picture.shape == inputs[0].shape]),)

    def example(self, inputs: list[Tensor]) -> Inputs:
        return self.arguments([inputs[0], inputs[0]])

    def check(self, outputs: Any, targets: Any, classes: int | None) -> int | None:
        if not isinstance(outputs["losses"], Mapping) or not outputs["losses"]:
            raise DataError("a detector should give its losses by name in training mode, as torchvision's do")
        return classes


def _forward(model: nn.Module, pictures: Any, targets: Any = None) -> Any:
    """A list goes to the detector's own forward pass, a stack (N, 3, H, W) to its layers alone."""
    if isinstance(pictures, Tensor):
        return raw_outputs(model, pictures)
    return type(model).forward(model, pictures, targets)


def raw_outputs(model: Any, pictures: Tensor) -> list[Any]:
    """What the layers of a detector give before boxes are chosen.

    In place of the regions of two-stage detectors stands the whole map. Part of a region may lie outside, where it
    reads zeros: what is constant in the map need not be in the region, and the product with what is not known says so.
    """
    images = model.transform(list(pictures))[0].tensors
    features = model.backbone(images)
    maps = [features] if isinstance(features, Tensor) else list(features.values())
    if not hasattr(model, "rpn"):
        return [model.head(maps)]
    heads, size = model.roi_heads, model.roi_heads.box_roi_pool.output_size
    inside = images.abs().amax((1, 2, 3), keepdim=True)
    regions = [functional.adaptive_avg_pool2d(each, size) * inside for each in maps]
    return [model.rpn.head(maps), [heads.box_predictor(heads.box_head(region)) for region in regions]]


@contextmanager
def giving_losses(model: nn.Module) -> Iterator[None]:
    """Within, a detector in eval mode gives its losses, and draws the same random numbers each time."""
    turned = [m for m in model.modules() if not any(word in type(m).__name__.lower() for word in DRAWS)]
    for module in turned:
        module.training = True
    try:
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # it samples anchors and proposals
            yield
    finally:
        for module in turned:
            module.training = False


class AveragePrecision:
    """COCO's mean average precision, by torchmetrics."""

    def __init__(self) -> None:
        try:
            from torchmetrics.detection import MeanAveragePrecision

            self.metric: Any = MeanAveragePrecision(backend="faster_coco_eval", sync_on_compute=False)
        except ImportError as error:
            raise UsageError(
                "task detection needs torchmetrics and faster-coco-eval: pip install 'extcon[detection]'"
            ) from error

    def update(self, outputs: Mapping[str, Any], targets: Any) -> None:
        found, wanted = ([{k: v.cpu() for k, v in one.items()} for one in rows] for rows in (outputs["boxes"], targets))
        self.metric.update(found, wanted)

    def compute(self) -> Mapping[str, Tensor]:
        found = self.metric.compute()
        return {"map": found["map"], "map50": found["map_50"]}
