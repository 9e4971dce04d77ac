"""Pictures of any size -> inputs of one size, by torchvision's transforms v2: at random to learn from, or as measured.

It acts on one sample, in whatever process reads it, and draws from torch's global random state, which the reader sets.
Scaling to 0..1 and normalising come later, batch by batch on the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import AugmentSpec, ResizeSpec

CENTER_SHARE = 7 / 8
"""Share of the shorter side that the centre crop of a large picture keeps (224 of 256)."""
JOINT = ("segmentation", "detection")
"""Tasks whose targets are drawn on the picture: what moves it moves them."""


class Views:
    """What a model is shown of a picture and its target. A class, so that workers can be sent it.

    Args:
        task: of the recipe. segmentation: the target is a picture of class numbers; detection: boxes and labels.
        input_shape: (channels, height, width). Pictures of a detection keep their own height and width.
        augment: what is done at random where the model learns; crop_padding and flip of whole samples come later,
            batch by batch, but for the flips of the two tasks above.
        resize: how it is resized otherwise.

    Raises: DataError where the task cannot have such an augmentation.
    """

    def __init__(
        self, task: str, input_shape: tuple[int, ...], augment: AugmentSpec, resize: ResizeSpec | None
    ) -> None:
        from torchvision.transforms import v2

        self.task = task
        channels, *size = input_shape
        resize = resize or ResizeSpec()
        mode = v2.InterpolationMode(resize.interpolation)
        side = max(size, default=1)
        share = resize.crop or (CENTER_SHARE if side >= 128 else 1)
        shorter = int(side / share + 0.5) if resize.crop is None else int(side / share + 1e-3)  # as timm: rounded down
        self.colours = v2.Grayscale(1) if channels == 1 else v2.RGB()
        whole = [] if task == "detection" else [v2.Resize(shorter, mode, antialias=True), v2.CenterCrop(size)]
        self.measured = v2.Compose([*whole, v2.Identity()])
        if task in JOINT:
            _refuse(task, augment)
        if augment.random_resized_crop is not None:
            scale = list(augment.random_resized_crop)
            whole = [v2.RandomResizedCrop(size, scale=scale, interpolation=mode, antialias=True)]
        random: list[Any] = list(whole)
        if task in JOINT and augment.flip:
            random.append(v2.RandomHorizontalFlip())
        if augment.policy is not None:
            random.append(v2.RandAugment() if augment.policy == "rand_augment" else v2.TrivialAugmentWide())
        if augment.erasing:
            random.append(v2.RandomErasing(augment.erasing))
        self.learnt = v2.Compose([*random, v2.Identity()])

    def __call__(self, picture: Any, target: Any, *, training: bool) -> tuple[Any, Any]:
        """A picture (PIL, or (C, H, W) uint8) and its target -> (C, h, w) uint8 and the target that fits it."""
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional

        image = picture if isinstance(picture, Tensor) else functional.pil_to_tensor(picture)
        image, change = self.colours(tv_tensors.Image(image)), self.learnt if training else self.measured
        if self.task == "segmentation":
            size = f"{image.shape[1]} x {image.shape[2]}"
            if target.shape != image.shape[1:]:
                raise DataError(f"its mask is {target.shape[0]} x {target.shape[1]}, the picture {size}")
            image, target = change(image, tv_tensors.Mask(target))
            return _plain(image), _plain(target).long()
        if self.task == "detection":
            boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=image.shape[1:])
            image, boxes = change(image, boxes)
            return _plain(image), {**target, "boxes": _plain(boxes).float()}
        return _plain(change(image)), target


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(torch.Tensor)


def _refuse(task: str, augment: AugmentSpec) -> None:
    """DataError for what would change a picture and not the target that is drawn on it."""
    given = [name for name in ("policy", "erasing", "mixup", "crop_padding") if getattr(augment, name)]
    if task == "detection" and augment.random_resized_crop is not None:
        given.append("random_resized_crop")
    if given:
        raise DataError(f"data.augment.{given[0]} is not for the task {task}: leave it out; flip: true works")
