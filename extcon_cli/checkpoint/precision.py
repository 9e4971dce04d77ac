"""Half precision: how numbers are stored. extcon computes with more and writes them back as they came.

A tensor is written in half precision only where that loses nothing, so that what was measured is what is written;
`round_to` makes it so after training.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)

Precision = Mapping[str, torch.dtype]
"""Tensors by name that are stored in half precision."""


def stored_precision(state: Mapping[str, Tensor]) -> Precision:
    """Which tensors of a state dict are in half precision."""
    return {name: tensor.dtype for name, tensor in state.items() if tensor.dtype in HALF}


@torch.no_grad()
def round_to(module: nn.Module, precision: Precision) -> None:
    """Round the module's tensors to numbers that their stored form has; their type stays."""
    round_state(module.state_dict(keep_vars=True), precision)


@torch.no_grad()
def round_state(state: Mapping[str, Tensor], precision: Precision) -> None:
    """`round_to` for a state dict."""
    for name, tensor in state.items():
        if name in precision and tensor.is_floating_point():
            tensor.copy_(tensor.to(precision[name]))


def lossless(name: str, tensor: Tensor, precision: Precision) -> Tensor:
    """The tensor in its stored form, where that has all of its numbers; else as it is."""
    if name not in precision or not tensor.is_floating_point():
        return tensor
    half = tensor.to(precision[name])
    return half if torch.equal(half.to(tensor.dtype), tensor) else tensor
