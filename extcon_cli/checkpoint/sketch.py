"""A module built without its numbers, to see how large it would be before memory is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from extcon_cli.memory import memory_limit, shown

MOST_TENSORS = 200_000
"""That any module asks for while it is built."""
TENSORS_EACH = 20
"""That a module asks for at the most, for each that it keeps: numbers to begin with, tables of positions."""


class TooLarge(Exception):
    """The module would not fit; the message says how large it would be at the least."""


class Unfilled(TorchFunctionMode):
    """Within, meta tensors are not filled with random numbers: they have none, and torch loads its compiler for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS and args and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class _Counted(Unfilled):
    """Counts what is asked for, so that a module of endless parts ends too."""

    def __init__(self, limit: int, most: int) -> None:
        super().__init__()
        self.limit, self.most, self.size, self.tensors = limit, most, 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_function__(func, types, args, kwargs)
        if func in _FACTORIES and isinstance(made, Tensor):
            self.size += made.numel() * made.element_size()
            self.tensors += 1
            if self.size > self.limit:
                limit = f"{shown(self.limit)} (--max-memory raises it)"
                raise TooLarge(f"would take {shown(self.size)} of memory or more; the limit is {limit}")
            if self.tensors > self.most:
                raise TooLarge(f"would take {self.tensors} tensors or more: far more than it can have")
        return made


_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.exponential_, Tensor.random_}
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint, torch.eye}
_FACTORIES |= {torch.arange, torch.linspace, torch.normal, torch.tril, torch.triu}


def sketch(factory: Callable[..., Any], kwargs: dict[str, Any], kept: int | None = None) -> nn.Module | None:
    """The module that the factory gives, on the meta device; None where it cannot be built without numbers.

    `kept` is the number of tensors that it has to have in the end; None: any.
    Leaves torch's random state alone. TooLarge where it would not fit into memory.
    """
    most = MOST_TENSORS if kept is None else min(MOST_TENSORS, TENSORS_EACH * kept + 1000)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _Counted(memory_limit(), most):
            made = factory(**kwargs)
    except TooLarge:
        raise
    except Exception:  # its own business: the real thing says what is wrong
        return None
    return made if isinstance(made, nn.Module) else None
