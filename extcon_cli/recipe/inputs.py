"""What one input of a model is, as text: `float32[3, 224, 224]`, `int64[128] 0..255`. It makes no tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Annotated

from pydantic import AfterValidator

LARGEST = 2**26
"""Numbers in one input."""

_TEXT = re.compile(r"(float32|float64|int64|int32|uint8|bool)\[([0-9]*(?:, ?[0-9]+)*)\](?: (-?[0-9]+)\.\.(-?[0-9]+))?")


@dataclass(frozen=True)
class InputKind:
    """Type and shape of one input without the batch; of whole numbers also the least and the largest."""

    dtype: str
    shape: tuple[int, ...]
    low: int = 0
    high: int = 0

    @classmethod
    def parse(cls, text: str) -> InputKind:
        """From its text (ValueError: it is none)."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"should look like float32[3, 224, 224] or int64[128] 0..255, not {text[:60]!r}")
        shape = tuple(int(size) for size in match[2].split(",") if size)
        low, high = int(match[3] or 0), int(match[4] or 0)
        if not all(shape) or len(shape) > 8 or prod(shape) > LARGEST or not -(2**62) < low <= high < 2**62:
            raise ValueError(f"{text[:60]!r} is no shape and range of one input")
        return cls(match[1], shape, low, high)

    def __str__(self) -> str:
        span = f" {self.low}..{self.high}" if "int" in self.dtype else ""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]{span}"


def _checked(text: str) -> str:
    return str(InputKind.parse(text))


InputKinds = dict[str, Annotated[str, AfterValidator(_checked)]]
"""By the names of the arguments; arguments by position are called 0, 1, ..."""
