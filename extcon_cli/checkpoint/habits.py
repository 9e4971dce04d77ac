"""What a library's architecture takes by custom: the shape of its input and how that is normalised.

The custom is that of the library's own trained weights. Whether this checkpoint was trained so, it cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from extcon_cli.checkpoint.zoo import ZOO
from extcon_cli.recipe.schema import NormalizeSpec, ResizeSpec


@dataclass(frozen=True)
class Habit:
    """A customary input."""

    input_shape: tuple[int, ...]
    """Of one input, without the batch."""
    normalize: NormalizeSpec | None
    """None: the library says nothing."""
    source: str
    """Who says so."""
    resize: ResizeSpec | None = None
    """How a picture becomes such an input. None: the library says nothing that a recipe can say."""


def habit(arch: str, kwargs: Mapping[str, Any]) -> Habit | None:
    """The custom of `zoo:NAME`, `torchvision:NAME` or `timm:NAME`; None where there is none."""
    source, _, name = arch.partition(":")
    if source == "zoo" and name in ZOO:
        return Habit(ZOO[name].input_shape(**kwargs), None, "the zoo's own size")
    if source == "torchvision":
        return _torchvision(name, kwargs)
    if source == "timm" and find_spec("timm") is not None:
        return _timm(name, kwargs)
    return None


def _torchvision(name: str, kwargs: Mapping[str, Any]) -> Habit | None:
    import torchvision.models as tv

    if name not in [*tv.list_models(module=tv), *tv.list_models(module=tv.segmentation)]:
        return None
    transforms = tv.get_model_weights(name).DEFAULT.transforms()
    size = kwargs.get("image_size", getattr(transforms, "crop_size", [224])[0])
    normalize = NormalizeSpec(mean=tuple(transforms.mean), std=tuple(transforms.std))
    before, after = getattr(transforms, "resize_size", [None])[0], getattr(transforms, "crop_size", [None])[0]
    resize = None
    if before is not None and after is not None:
        share = min(1.0, after / before)
        resize = ResizeSpec.model_validate({"crop": share, "interpolation": transforms.interpolation.value})
    return Habit((3, size, size), normalize, "the transforms of torchvision's weights", resize)


def _timm(name: str, kwargs: Mapping[str, Any]) -> Habit | None:
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        return None
    channels, *sizes = config.input_size
    if "img_size" in kwargs:
        size = kwargs["img_size"]
        sizes = [size, size] if isinstance(size, int) else list(size)
    wanted = kwargs.get("in_chans", channels)
    normalize = NormalizeSpec(mean=tuple(config.mean), std=tuple(config.std)) if wanted == channels else None
    known = ("nearest", "bilinear", "bicubic", "lanczos")
    resize = None
    if config.crop_mode == "center" and config.interpolation in known and 0 < config.crop_pct <= 1:
        resize = ResizeSpec.model_validate({"crop": config.crop_pct, "interpolation": config.interpolation})
    return Habit((wanted, *sizes), normalize, "timm's configuration of this architecture", resize)
