"""How far two modules are apart: the one measurement behind `extcon verify`, certificates and `extcon_cli.verify`.

It measures and changes nothing; what is too much is for the caller to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from extcon_cli.channels.compare import (
    EXACT,
    Difference,
    Examples,
    Inputs,
    difference,
    each_example,
    in_double,
    random_batches,
    runs,
)
from extcon_cli.errors import GateError

Doubles = tuple[nn.Module, nn.Module]
"""Two modules in float64 on the CPU."""


@dataclass(frozen=True)
class Verification:
    """Outputs of two modules beside each other, on random and on real inputs."""

    random: Difference
    """float32, on random inputs of several batch sizes and, where both modules allow, two resolutions."""
    double: Difference | None
    """The same in float64; None: a module does not run in it."""
    evaluation: Difference | None
    """On real inputs; None: there were none."""

    @property
    def measured(self) -> tuple[Difference, ...]:
        """Every comparison that was made."""
        return tuple(found for found in (self.random, self.double, self.evaluation) if found is not None)

    @property
    def relative(self) -> float:
        """The worst of all differences, each a share of its output's scale."""
        return max(found.relative for found in self.measured)

    @property
    def exact(self) -> bool:
        """Whether no output differs by more than 1e-5 of the largest."""
        return self.relative <= EXACT


def verify(
    first: nn.Module,
    second: nn.Module,
    example_inputs: Examples,
    *,
    evaluation: Iterable[Inputs] = (),
    sizes: Sequence[int] = (1, 3, 8),
) -> Verification:
    """Measure how far the outputs of two modules differ, both in eval mode, on the same inputs.

        >>> import copy, torch, extcon_cli
        >>> model, x = torch.nn.Linear(4, 3), torch.randn(2, 4)
        >>> other = copy.deepcopy(model)
        >>> extcon_cli.verify(model, other, (x,)).exact
        True
        >>> _ = torch.nn.init.zeros_(other.bias)
        >>> extcon_cli.verify(model, other, (x,)).exact
        False

    Args:
        first, second: on one device; neither is changed.
        example_inputs: the arguments of one forward pass, by position or by name, or a list of several; random inputs
            take their shapes.
        evaluation: batches of real inputs, as `example_inputs`.
        sizes: of the random batches.

    Raises:
        GateError: the second module does not take what the first one takes.
    """
    return measure(first, second, example_inputs, both_in_double(first, second, example_inputs), evaluation, sizes)


def measure(
    first: nn.Module,
    second: nn.Module,
    examples: Examples,
    doubles: Doubles | None,
    evaluation: Iterable[Inputs] = (),
    sizes: Sequence[int] = (1, 3),
) -> Verification:
    """`verify` for a caller that makes the modules in float64 itself, or says that there are none."""
    shapes = [shape for example in each_example(examples) for shape in (example, *_other_resolution(first, example))]
    for shape in shapes:
        if not runs(second, shape) and runs(first, shape):
            sizes_of = ", ".join(str(list(leaf.shape)) for leaf in tree_leaves(shape) if isinstance(leaf, Tensor))
            raise GateError(f"the second module does not take inputs of {sizes_of}, and the first one does")
    real = difference(first, second, evaluation)
    return Verification(
        random=difference(first, second, (batch for shape in shapes for batch in random_batches(shape, sizes=sizes))),
        double=doubles and difference(*doubles, (batch for shape in shapes for batch in _wide(shape, sizes))),
        evaluation=real if real.samples else None,
    )


def both_in_double(first: nn.Module, second: nn.Module, examples: Examples) -> Doubles | None:
    """Copies of both on the CPU in float64; None where one of them does not run in it."""
    doubles = in_double(first), in_double(second)
    batches = [batch for example in each_example(examples) for batch in _wide(example, (1,))]
    return doubles if all(runs(module, batch) for module in doubles for batch in batches) else None


def _wide(example: Inputs, sizes: Sequence[int]) -> Iterator[Inputs]:
    on_cpu = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, example)
    return random_batches(on_cpu, sizes=sizes, dtype=torch.float64)


def _other_resolution(module: nn.Module, example: Inputs) -> list[Inputs]:
    """The example with images larger by a quarter, where the module takes them."""
    larger = tree_map(_enlarged, example)
    if all(a is b for a, b in zip(tree_leaves(example), tree_leaves(larger), strict=True)):
        return []
    return [larger] if runs(module, larger) else []


def _enlarged(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dim() < 4 or not value.is_floating_point():
        return value
    return value.new_zeros(*value.shape[:2], *(_larger(size) for size in value.shape[2:]))


def _larger(size: int) -> int:
    step = 32 if size >= 128 else 8 if size >= 32 else 4
    return size + max(step, size // 4 // step * step)
