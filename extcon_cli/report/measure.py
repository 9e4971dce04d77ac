"""How large a model is: parameters, multiply-accumulates, bytes, widths. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from extcon_cli.channels.compare import Inputs, at_batch
from extcon_cli.report.flops import flops
from extcon_cli.report.results.records import Layer, Size


def measure(model: nn.Module, example: Inputs, stored: Mapping[str, torch.dtype] = MappingProxyType({})) -> Size:
    """Size of a model for one sample.

    Args:
        example: the arguments of a forward pass; its first sample counts.
        stored: names of tensors that are stored in another type than they compute in; `bytes` counts as stored.
    """
    return _size(model, flops(model, at_batch(model, example, 1)), stored)


def size_and_layers(
    model: nn.Module, example: Inputs, stored: Mapping[str, torch.dtype] = MappingProxyType({})
) -> tuple[Size, list[Layer]]:
    """`measure` and `layers` by one forward pass."""
    counted = flops(model, at_batch(model, example, 1))
    return _size(model, counted, stored), layers(model, counted)


def _size(model: nn.Module, counted: Mapping[str, int], stored: Mapping[str, torch.dtype]) -> Size:
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    return Size(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=counted.get("", 0) // 2,
        bytes=sum(tensor.numel() * stored.get(name, tensor.dtype).itemsize for name, tensor in state.items()),
    )


def layers(model: nn.Module, counted: Mapping[str, int] = MappingProxyType({})) -> list[Layer]:
    """Every module with parameters of its own, in the order of the model; `counted` are FLOPs by a module's path."""
    return [
        Layer(
            name=name,
            kind=type(module).__name__,
            inputs=_first(module, "in_channels", "in_features", "num_features", "embed_dim"),
            outputs=_first(module, "out_channels", "out_features", "num_features", "embed_dim"),
            params=sum(parameter.numel() for parameter in module.parameters(recurse=False)),
            macs=counted.get(name, 0) // 2,
        )
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]


def _first(module: nn.Module, *names: str) -> int | None:
    """The first of these attributes that the module has as a number."""
    return next((value for name in names if isinstance(value := getattr(module, name, None), int)), None)
