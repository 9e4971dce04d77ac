"""Operators that jump: at an edge the smallest change of a real input gives quite another result.

Says which they are; what is known of their results stands with the other rules of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from extcon_cli.channels.analysis.operator import Operator, dtype
from extcon_cli.channels.analysis.rules.pointwise import COMPARISONS

QUOTIENTS = ("div", "floor_divide", "remainder", "fmod")  # they divide, and so round, before they jump
WHOLE = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside", "signbit", "floor_divide", *COMPARISONS)
JUMPING = (*WHOLE, "frac", "remainder", "fmod", "hardshrink", "threshold")


def jumps(op: Operator) -> bool:
    """Whether a rounding of what it reads may decide its result."""
    if op.name in JUMPING or op.value("rounding_mode") is not None:
        return True
    result = op.node.meta.get("val")
    return isinstance(result, Tensor) and any(_coarser(result.dtype, dtype(read)) for read in op.tensors)


def moves_between_jumps(op: Operator) -> bool:
    """Whether the result of an operator that jumps follows its input elsewhere, instead of standing still."""
    return op.dtype.is_floating_point and op.name not in WHOLE and op.value("rounding_mode") is None


def _coarser(after: torch.dtype, before: torch.dtype) -> bool:
    """Whether a type holds fewer of the real numbers that another one holds."""
    if not before.is_floating_point or after.is_complex:
        return False
    return not after.is_floating_point or torch.finfo(after).eps > torch.finfo(before).eps
