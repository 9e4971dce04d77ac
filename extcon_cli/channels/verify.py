"""Measure, never trust: how far the outputs of two modules differ, on the same inputs.

Says what it measured; what is too much is for the caller to decide.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.channels.trace import evaluating

EXACT = 1e-5  # of the largest output, float32 (DESIGN.md, section 8)
EXACT_DOUBLE = 1e-10


@dataclass(frozen=True)
class Difference:
    """Outputs of two modules beside each other: `relative` is the largest difference over the largest output."""

    largest: float  # largest absolute difference
    scale: float  # largest absolute output of the first module
    agreement: float  # share of arg-max over the last dimension that are the same
    samples: int

    @property
    def relative(self) -> float:
        """The largest difference as a share of the largest output."""
        return self.largest / self.scale if self.scale > 0 else self.largest


@torch.no_grad()
def difference(first: nn.Module, second: nn.Module, batches: Iterable[tuple[Any, ...]]) -> Difference:
    """Run both in eval mode on the same batches (tuples of positional arguments) and compare every output."""
    largest, scale, agree, total, samples = 0.0, 0.0, 0, 0, 0
    with evaluating(first), evaluating(second):
        for batch in batches:
            samples += len(batch[0]) if isinstance(batch[0], Tensor) else 1
            for a, b in zip(tensors_in(first(*batch)), tensors_in(second(*batch)), strict=True):
                if a.shape != b.shape:
                    return Difference(float("inf"), scale, 0.0, samples)
                gap = (a - b).abs().max().item() if a.numel() else 0.0
                largest = max(largest, gap if gap == gap else float("inf"))
                scale = max(scale, a.abs().max().item() if a.numel() else 0.0)
                if a.dim() > 0 and a.shape[-1] > 1:
                    agree += int((a.argmax(-1) == b.argmax(-1)).sum())
                    total += a[..., 0].numel()
    return Difference(largest, scale, agree / total if total else 1.0, samples)


def random_batches(
    example: tuple[Any, ...],
    *,
    sizes: Sequence[int] = (1, 3),
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Normal random inputs shaped like the example, at several batch sizes; integers are taken as they are."""
    generator = torch.Generator().manual_seed(seed)
    for size in sizes:
        yield tuple(_random(value, size, generator, dtype) for value in example)


def _random(value: Any, size: int, generator: torch.Generator, dtype: torch.dtype | None) -> Any:
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        return value[:1].expand(size, *value.shape[1:])
    drawn = torch.randn((size, *value.shape[1:]), generator=generator)
    return drawn.to(value.device, dtype or value.dtype)


def in_double(module: nn.Module) -> nn.Module:
    """A copy of the module on the CPU in float64."""
    return copy.deepcopy(module).cpu().double()


def tensors_in(output: Any) -> list[Tensor]:
    """All floating-point tensors of an output, in order, through lists, tuples and dicts."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [tensor for part in output for tensor in tensors_in(part)]
    return []
