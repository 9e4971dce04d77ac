"""Measure, never trust: how far the outputs of two modules differ, on the same inputs.

Says what it measured; what is too much is for the caller to decide.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from extcon_cli.channels.modules import evaluating

Inputs = tuple[Any, ...] | Mapping[str, Any]
"""The arguments of a forward pass: positional, or by name. They may hold dicts and lists of tensors."""

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
        """The largest difference as a share of the largest output that is finite."""
        return self.largest / self.scale if self.scale > 0 else self.largest


def difference(first: nn.Module, second: nn.Module, batches: Iterable[Inputs]) -> Difference:
    """Run both in eval mode on the same batches and compare every output."""
    return compare((outputs(first, batch), outputs(second, batch), batch_size(batch)) for batch in batches)


@torch.no_grad()
def outputs(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All output tensors of a forward pass in eval mode.

    Random numbers are the same each time, and none are taken from the user's generator. A module in float64 computes
    in it throughout: what its own code casts to float32 (the norms of Llama and T5, RAFT) would hide behind rounding.
    """
    with evaluating(module), _throughout(module), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return tensors_in(call(module, inputs))


def compare(runs: Iterable[tuple[list[Tensor], list[Tensor], int]]) -> Difference:
    """Outputs of two modules beside each other, batch by batch, with the number of samples in each."""
    largest, scale, agree, total, samples = 0.0, 0.0, 0, 0, 0
    for first, second, number in runs:
        samples += number
        if [a.shape for a in first] != [b.shape for b in second]:
            return Difference(float("inf"), scale, 0.0, samples)
        for a, b in zip(first, second, strict=True):
            if not a.numel():
                continue
            gap = (a - b).abs().masked_fill(a == b, 0.0).max().item()  # infinite, both: no difference
            largest = max(largest, gap if gap == gap else float("inf"))
            scale = max(scale, a.abs().nan_to_num(0.0, posinf=0.0).max().item())
            if a.dim() > 0 and a.shape[-1] > 1 and not a.is_complex():
                agree += int((a.argmax(-1) == b.argmax(-1)).sum())
                total += a[..., 0].numel()
    return Difference(largest, scale, agree / total if total else 1.0, samples)


def call(module: nn.Module, inputs: Inputs) -> Any:
    """A forward pass with arguments by position or by name."""
    return module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)


def batch_size(inputs: Inputs) -> int:
    """The first length of the first tensor among the inputs; 1 where there is none."""
    return next((len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()), 1)


def runs(module: nn.Module, inputs: Inputs, *, training: bool = False) -> bool:
    """Whether a forward pass goes through; in training mode it may move the batch statistics of the module."""
    with evaluating(module), _throughout(module), torch.no_grad(), torch.random.fork_rng():
        module.train(training)
        try:
            call(module, inputs)
        except Exception:  # whatever the model's own code raises
            return False
    return True


class _Double(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every cast to float32 becomes one to float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"dtype": torch.float64} if kwargs.get("dtype") == torch.float32 else kwargs))


def _throughout(module: nn.Module) -> AbstractContextManager[Any]:
    """The context in which a module in float64 computes in nothing less."""
    wide = any(parameter.dtype == torch.float64 for parameter in module.parameters())
    return _Double() if wide else nullcontext()  # type: ignore[no-untyped-call]


def random_batches(
    example: Inputs,
    *,
    sizes: Sequence[int] = (1, 3),
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Iterator[Inputs]:
    """Normal random inputs shaped like the example, at several batch sizes; integers are taken as they are."""
    generator = torch.Generator().manual_seed(seed)
    for size in sizes:
        yield tree_map(partial(_random, size=size, generator=generator, dtype=dtype), example)


def _random(value: Any, *, size: int, generator: torch.Generator, dtype: torch.dtype | None) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if not value.is_floating_point():
        return value[:1].expand(size, *value.shape[1:])
    drawn = torch.randn((size, *value.shape[1:]), generator=generator)
    return drawn.to(value.device, dtype or value.dtype)


def in_double(module: nn.Module) -> nn.Module:
    """A copy of the module on the CPU in float64."""
    return copy.deepcopy(module).cpu().double()


def tensors_in(output: Any) -> list[Tensor]:
    """All real and complex tensors of an output, in order, through whatever containers torch.export knows."""
    leaves = tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())]
