"""The certificate of a removal: what was measured, on what, and on exactly which weights.

It states; `exact` is the verdict that a caller acts on. The certificate is data, stored with the shrunk checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from extcon_cli.channels.compare import (
    EXACT,
    EXACT_DOUBLE,
    Difference,
    Inputs,
    difference,
    in_double,
    random_batches,
    runs,
)
from extcon_cli.channels.removal.apply import remove
from extcon_cli.channels.removal.rewrites import RemovalPlan


@dataclass(frozen=True)
class Certificate:
    """Outputs before and after a removal, beside each other. Differences are shares of the largest output."""

    before: str  # sha256 of the weights that were shrunk
    after: str  # sha256 of the smaller model's weights
    rewrites: tuple[dict[str, Any], ...]  # each change of the plan with the rule that allowed it
    random: Difference  # float32, random inputs of two batch sizes and, where the model allows, two resolutions
    double: Difference | None  # the same with the removal done in float64; None: the model does not run in it
    evaluation: Difference | None  # real inputs

    @property
    def exact(self) -> bool:
        """Within 1e-5 of the largest output in float32 and 1e-10 in float64, on everything that was measured."""
        bounds = ((self.random, EXACT), (self.evaluation, EXACT), (self.double, EXACT_DOUBLE))
        return all(found.relative <= bound for found, bound in bounds if found is not None)

    def to_json(self) -> dict[str, Any]:
        """The certificate as plain dicts, with the tolerances that it was held against."""
        measured = {
            name: None if found is None else {**asdict(found), "relative": found.relative}
            for name, found in (("random", self.random), ("double", self.double), ("evaluation", self.evaluation))
        }
        return {
            "exact": self.exact,
            "tolerance": {"float32": EXACT, "float64": EXACT_DOUBLE},
            "before": self.before,
            "after": self.after,
            "rewrites": list(self.rewrites),
            **measured,
        }


def certify(
    before: nn.Module,
    after: nn.Module,
    plan: RemovalPlan,
    example: Inputs,
    evaluation: Iterable[Inputs] = (),
) -> Certificate:
    """Compare the module with its smaller self on random and on real inputs.

    Args:
        before: the module with its dead channels still in place.
        after: the same with the channels removed by `plan`.
        example: arguments of a forward pass, by position or by name; random inputs take their shapes.
        evaluation: batches of real inputs as positional arguments, on the modules' device.
    """
    shapes = [example, *_other_resolution(before, example)]
    real = difference(before, after, evaluation)
    return Certificate(
        before=weights_hash(before),
        after=weights_hash(after),
        rewrites=tuple(plan.rewrites()),
        random=difference(before, after, (batch for shape in shapes for batch in random_batches(shape))),
        double=_in_double(before, plan, [_cpu(shape) for shape in shapes]),
        evaluation=real if real.samples else None,
    )


def _in_double(before: nn.Module, plan: RemovalPlan, shapes: list[Inputs]) -> Difference | None:
    """The removal again in float64, where a folded constant is not rounded to a float32 bias."""
    batches = [batch for shape in shapes for batch in random_batches(shape, dtype=torch.float64)]
    first, second = in_double(before), in_double(before)
    if not runs(first, batches[0]):
        return None
    remove(second, plan)
    return difference(first, second, batches)


def weights_hash(module: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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


def _cpu(example: Inputs) -> Inputs:
    return tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, example)
