"""How large and how fast a model is: parameters, multiply-accumulates, bytes, widths, latency. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import benchmark
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from extcon_cli.channels.compare import Inputs, call
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


def latency(model: nn.Module, example: Inputs, batch: int, *, seconds: float = 0.2) -> float:
    """Median wall time in seconds of one forward pass of a batch, measured for about `seconds`."""
    inputs = _inputs(model, batch, example)
    with evaluating(model), torch.no_grad():
        timer = benchmark.Timer(
            "call(model, inputs)",
            globals={"call": call, "model": model, "inputs": inputs},
            num_threads=torch.get_num_threads(),
        )
        return float(timer.blocked_autorange(min_run_time=seconds).median)


def _flops(model: nn.Module, example: Inputs) -> dict[str, int]:
    """FLOPs of one sample by module name, and in all under "Global"."""
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(model, _inputs(model, 1, example))
    root = type(model).__name__
    counted: Mapping[str, Mapping[object, int]] = counter.get_flop_counts()
    return {
        "Global" if name == "Global" else name.removeprefix(f"{root}."): sum(operators.values())
        for name, operators in counted.items()
    }


def _inputs(model: nn.Module, batch: int, example: Inputs) -> Inputs:
    """The first sample of the example, `batch` times, as the model computes and where it is."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))

    def repeated(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        first = value[:1].expand(batch, *value.shape[1:]).contiguous() if value.dim() else value
        return first.to(like) if value.is_floating_point() else first.to(like.device)

    inputs: Inputs = tree_map(repeated, example)
    return inputs


def _first(module: nn.Module, *names: str) -> int | None:
    """The first of these attributes that the module has as a number."""
    return next((value for name in names if isinstance(value := getattr(module, name, None), int)), None)
