"""How large a model is: parameters, multiply-accumulates, bytes, widths. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from extcon_cli.channels.compare import Inputs, at_batch, call
from extcon_cli.channels.modules import evaluating
from extcon_cli.report.records import Layer, Size


def measure(model: nn.Module, example: Inputs, stored: Mapping[str, torch.dtype] = MappingProxyType({})) -> Size:
    """Size of a model for one sample.

    Args:
        example: the arguments of a forward pass; its first sample counts.
        stored: names of tensors that are stored in another type than they compute in; `bytes` counts as stored.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    return Size(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=_flops(model, example)["Global"] // 2,
        bytes=sum(tensor.numel() * stored.get(name, tensor.dtype).itemsize for name, tensor in state.items()),
    )


def layers(model: nn.Module, example: Inputs) -> list[Layer]:
    """Every module with parameters of its own, in the order of the model."""
    flops = _flops(model, example)
    return [
        Layer(
            name=name,
            kind=type(module).__name__,
            inputs=_first(module, "in_channels", "in_features", "num_features", "embed_dim"),
            outputs=_first(module, "out_channels", "out_features", "num_features", "embed_dim"),
            params=sum(parameter.numel() for parameter in module.parameters(recurse=False)),
            macs=flops.get(name, 0) // 2,
        )
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]


def _flops(model: nn.Module, example: Inputs) -> dict[str, int]:
    """FLOPs of one sample by module name, and in all under "Global"."""
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(model, at_batch(model, example, 1))
    root = type(model).__name__
    counted: Mapping[str, Mapping[object, int]] = counter.get_flop_counts()
    return {
        "Global" if name == "Global" else name.removeprefix(f"{root}."): sum(operators.values())
        for name, operators in counted.items()
    }


def _first(module: nn.Module, *names: str) -> int | None:
    """The first of these attributes that the module has as a number."""
    return next((value for name in names if isinstance(value := getattr(module, name, None), int)), None)
