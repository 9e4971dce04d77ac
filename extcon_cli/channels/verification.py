"""How far two modules are apart: the one measurement behind `extcon verify`, certificates and `extcon_cli.verify`.

It measures and changes nothing; what is too much is for the caller to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
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
    batch_size,
    compare,
    difference,
    each_example,
    in_double,
    outputs,
    random_batches,
)
from extcon_cli.errors import GateError

LARGE = 100_000
"""Numbers in an example, two images of 130 pixels for one, above which forward passes are counted."""


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
    return measure(first, second, example_inputs, (first, second), evaluation, sizes)


def measure(
    first: nn.Module,
    second: nn.Module,
    examples: Examples,
    pair: tuple[nn.Module, nn.Module],
    evaluation: Iterable[Inputs] = (),
    sizes: Sequence[int] = (1, 3),
    *,
    once: bool = False,
) -> Verification:
    """`verify` for a caller that says which pair of modules is measured in float64.

    Each batch size is tried at each resolution. With `once` large inputs, and float64, which takes twice as long, have
    each size and each resolution once: the first size at the larger resolution, the others at the example's own.
    """
    taken = [_Taken(example, once and _numbers(example) > LARGE) for example in each_example(examples)]
    random = compare(step for one in taken for step in _beside(first, second, one, sizes))
    real = difference(first, second, evaluation)
    return Verification(
        random=random,
        double=_in_double(*pair, taken, sizes, once=once),
        evaluation=real if real.samples else None,
    )


@dataclass
class _Taken:
    """An example, and the same with images larger by a quarter, where the first module takes them."""

    example: Inputs
    once: bool  # each size and each resolution, not each with each
    larger: Inputs | None = None


Step = tuple[list[Tensor], list[Tensor], int]
"""The outputs of both modules for a batch, and its number of samples."""


def _beside(first: nn.Module, second: nn.Module, taken: _Taken, sizes: Sequence[int]) -> Iterator[Step]:
    """Both modules batch by batch; notes whether they take larger images."""
    larger = tree_map(_enlarged, taken.example)
    alone = all(a is b for a, b in zip(tree_leaves(taken.example), tree_leaves(larger), strict=True))
    left = sizes[:1] if taken.once and not alone and len(sizes) > 1 else ()
    for batch in random_batches(taken.example, sizes=sizes[len(left) :]):
        yield outputs(first, batch), _second(second, batch, taken.example), batch_size(batch)
    if alone:
        return
    for batch in random_batches(larger, sizes=left or sizes):
        try:
            expected = outputs(first, batch)
        except Exception:  # whatever the model's own code raises
            break
        yield expected, _second(second, batch, larger), batch_size(batch)
    else:
        taken.larger = larger
        return
    for batch in random_batches(taken.example, sizes=left):
        yield outputs(first, batch), _second(second, batch, taken.example), batch_size(batch)


def _second(module: nn.Module, batch: Inputs, example: Inputs) -> list[Tensor]:
    """The outputs of the second module. GateError where it does not take what the first one has taken."""
    try:
        return outputs(module, batch)
    except Exception as error:  # whatever the model's own code raises
        shapes = ", ".join(str(list(leaf.shape)) for leaf in tree_leaves(example) if isinstance(leaf, Tensor))
        raise GateError(f"the second module does not take inputs of {shapes}, and the first one does") from error


def _in_double(
    first: nn.Module, second: nn.Module, taken: Sequence[_Taken], sizes: Sequence[int], *, once: bool
) -> Difference | None:
    """The difference in float64; None where one of the modules does not run in it."""

    def steps(first: nn.Module, second: nn.Module, *, double: bool) -> Iterator[Step]:
        for one in taken:
            apart = once and one.larger is not None and len(sizes) > 1
            batches = [*_wide(one.example, sizes[1:] if apart else sizes)]
            if one.larger is not None:
                batches += _wide(one.larger, sizes[:1] if apart else sizes)
            for batch in batches:
                found = outputs(first, batch, double=double), outputs(second, batch, double=double)
                yield *found, batch_size(batch)

    with suppress(Exception):  # whatever the models' own code raises
        if all(tensor.device.type == "cpu" for module in (first, second) for tensor in module.parameters()):
            return compare(steps(first, second, double=True))
    with suppress(Exception):  # a layer that reads another one's weights wants all of them in float64
        return compare(steps(in_double(first), in_double(second), double=False))
    return None


def _wide(example: Inputs, sizes: Sequence[int]) -> Iterator[Inputs]:
    on_cpu = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, example)
    return random_batches(on_cpu, sizes=sizes, dtype=torch.float64)


def _numbers(example: Inputs) -> int:
    return sum(leaf.numel() for leaf in tree_leaves(example) if isinstance(leaf, Tensor))


def _enlarged(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dim() < 4 or not value.is_floating_point():
        return value
    return value.new_zeros(*value.shape[:2], *(_larger(size) for size in value.shape[2:]))


def _larger(size: int) -> int:
    step = 32 if size >= 128 else 8 if size >= 32 else 4
    return size + max(step, size // 4 // step * step)
