"""The certificate of a removal: what was measured, on what, and on exactly which weights.

It states; `exact` is the verdict that a caller acts on. The certificate is data, stored with the shrunk checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from extcon_cli.channels.compare import EXACT, EXACT_DOUBLE, ROUNDED, Examples, Inputs
from extcon_cli.channels.deferred import dense
from extcon_cli.channels.removal.apply import unrounded
from extcon_cli.channels.removal.rewrites import RemovalPlan, Rewrite
from extcon_cli.channels.verification import Verification, measure
from extcon_cli.errors import GateError


@dataclass(frozen=True)
class Certificate(Verification):
    """Outputs before and after a removal, beside each other. In float64 nothing that it computed is rounded."""

    before: str  # sha256 of the weights that were shrunk
    after: str  # sha256 of the smaller model's weights
    rewrites: tuple[Rewrite, ...]  # each change of the plan with the rule that allowed it

    @property
    def exact(self) -> bool:
        """Within 1e-5 of each output's scale in float32 and 1e-10 in float64, on everything that was measured.

        Integer and boolean outputs are equal. Where float64 has shown all that, float32 has room for its rounding: an
        output is held to the scale of the largest one (flows that are refined step by step), and one integer in a
        thousand may be another (a label at a tie, a pixel).
        """
        if self.double is None:
            return self.relative <= EXACT and not any(found.unequal for found in self.measured)
        singles = [found for found in (self.random, self.evaluation) if found is not None]
        return self.double.relative <= EXACT_DOUBLE and all(
            found.overall <= EXACT and found.unequal <= ROUNDED * found.labels for found in singles
        )

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
            "rewrites": [asdict(rewrite) for rewrite in self.rewrites],
            **measured,
        }


def certify(
    before: nn.Module,
    after: nn.Module,
    plan: RemovalPlan,
    examples: Examples,
    evaluation: Iterable[Inputs] = (),
) -> Certificate:
    """Compare the module with its smaller self on random and on real inputs.

    Args:
        before: the module with its dead channels still in place.
        after: the same with the channels removed by `plan`.
        examples: arguments of a forward pass, by position or by name, or a list of several; random inputs take their
            shapes.
        evaluation: batches of real inputs, on the modules' device.

    Raises:
        GateError: the model gives nothing that can be compared, or the smaller one does not take what it takes.
    """
    found = measure(before, after, examples, (before, unrounded(before, after, plan)), evaluation, once=True)
    if not found.random.compared + found.random.labels:
        raise GateError("the model's outputs hold no finite number: nothing can be compared, so nothing is certified")
    return Certificate(
        random=found.random,
        double=found.double,
        evaluation=found.evaluation,
        before=weights_hash(before),
        after=weights_hash(after),
        rewrites=plan.rewrites(),
    )


def weights_hash(module: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(dense(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
