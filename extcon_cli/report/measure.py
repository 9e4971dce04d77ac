"""How large and how fast a model is: parameters, multiply-accumulates, bytes, widths, latency. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.utils import benchmark
from torch.utils.flop_counter import FlopCounterMode

from extcon_cli.channels.modules import evaluating
from extcon_cli.report.records import Layer, Size


def measure(
    model: nn.Module, input_shape: Sequence[int], stored: Mapping[str, torch.dtype] = MappingProxyType({})
) -> Size:
    """Size of a model for one input of this shape (without the batch).

    Args:
        stored: names of tensors that are stored in another type than they compute in; `bytes` counts as stored.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    return Size(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=_flops(model, input_shape)["Global"] // 2,
        bytes=sum(tensor.numel() * stored.get(name, tensor.dtype).itemsize for name, tensor in state.items()),
    )


def layers(model: nn.Module, input_shape: Sequence[int]) -> list[Layer]:
    """Every module with parameters of its own, in the order of the model."""
    flops = _flops(model, input_shape)
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


def latency(model: nn.Module, input_shape: Sequence[int], batch: int, *, seconds: float = 0.2) -> float:
    """Median wall time in seconds of one forward pass of a batch, measured for about `seconds`."""
    inputs = _inputs(model, batch, input_shape)
    with evaluating(model), torch.no_grad():
        timer = benchmark.Timer(
            "model(inputs)", globals={"model": model, "inputs": inputs}, num_threads=torch.get_num_threads()
        )
        return float(timer.blocked_autorange(min_run_time=seconds).median)


def _flops(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """FLOPs of one sample by module name, and in all under "Global"."""
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(_inputs(model, 1, input_shape))
    root = type(model).__name__
    counted: Mapping[str, Mapping[object, int]] = counter.get_flop_counts()
    return {
        "Global" if name == "Global" else name.removeprefix(f"{root}."): sum(operators.values())
        for name, operators in counted.items()
    }


def _inputs(model: nn.Module, batch: int, input_shape: Sequence[int]) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(batch, *input_shape, dtype=like.dtype, device=like.device)


def _first(module: nn.Module, *names: str) -> int | None:
    """The first of these attributes that the module has as a number."""
    return next((value for name in names if isinstance(value := getattr(module, name, None), int)), None)
