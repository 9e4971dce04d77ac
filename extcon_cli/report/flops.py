"""Floating point operations of a forward pass by module, with the formulas of torch's FlopCounterMode.

A mode of its own, since torch's imports torch._dynamo, which takes longer than torch itself. Forward passes only.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from extcon_cli.channels.compare import Inputs, call
from extcon_cli.channels.modules import evaluating


class _Counting(TorchDispatchMode):
    """Adds up what each operator computes for all modules whose forward passes are running."""

    def __init__(self, running: list[str]) -> None:
        super().__init__()
        self.running = running  # paths of modules
        self.found: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports torch._dynamo

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            return func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # its parts may be among those that have a formula
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            count = formula(*args, **kwargs, out_val=result)
            for path in {"", *self.running}:
                self.found[path] += count
        return result


def flops(model: nn.Module, inputs: Inputs) -> Counter[str]:
    """FLOPs of a forward pass in eval mode by the path of the module, those of the whole model under ""."""
    paths = {id(child): path for path, child in reversed(list(model.named_modules()))}
    running: list[str] = []

    def enter(child: nn.Module, args: object) -> None:
        running.append(paths.get(id(child), ""))

    def leave(child: nn.Module, args: object, output: object) -> None:
        running.pop()

    with ExitStack() as hooks, evaluating(model), torch.no_grad(), _Counting(running) as counting:
        before = nn.modules.module.register_module_forward_pre_hook(enter)
        hooks.callback(before.remove)
        after = nn.modules.module.register_module_forward_hook(leave, always_call=True)
        hooks.callback(after.remove)
        call(model, inputs)
    return counting.found
