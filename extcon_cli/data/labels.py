"""Class numbers are refused where a model has no output for them, as they are read or for a whole set in memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from extcon_cli.errors import DataError

NO_CLASS = 255
"""In a mask: a pixel that does not count."""


def check_labels(y: Any, *, classes: int | None) -> None:
    """The classes of a batch, (B,) int64, from 0 up to below `classes` (None: nobody knows how many)."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dim() != 1:
        kind = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise DataError(f"the dataset's labels should be whole numbers, not {kind}")
    _check_range(y, classes, "a label is", "labels should run")


def check_mask(y: Any, *, classes: int | None) -> None:
    """The classes of pixels, (B, H, W) int64, where they count."""
    if not isinstance(y, Tensor) or y.is_floating_point():
        raise DataError("masks should hold whole numbers, a class for each pixel")
    _check_range(y[y != NO_CLASS], classes, "a mask holds", f"classes should run (but for {NO_CLASS})")


def _check_range(found: Tensor, classes: int | None, holds: str, should: str) -> None:
    if not found.numel():
        return
    low, high = int(found.min()), int(found.max())
    if low < 0 or (classes is not None and high >= classes):
        top = "" if classes is None else f" to {classes - 1}"
        raise DataError(f"{holds} {low} or {high}; {should} from 0{top}")
