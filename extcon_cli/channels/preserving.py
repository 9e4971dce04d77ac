"""A user's module as it was before it was run: attributes, containers, buffers, hooks, random numbers.

Models keep things on themselves while they run: an activation, a grid of anchors, a counter. Tracing would leave
tensors without values there. Everything that can be reached from a module and changed in place is noted before and put
back after. Globals of the model's code are not.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import is_
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LARGE = 10_000
"""Containers of more entries are noted, not walked through: data, not state."""

Container = dict[Any, Any] | list[Any] | set[Any] | deque[Any]

KINDS = (OrderedDict, dict, list, set, deque)

ATOMS = {bool, int, float, str, type(None), nn.Parameter, Tensor, torch.Size}
EMPTY_OFTEN = {OrderedDict, dict, list, set}

OWN = ("torch.", "numpy.", "logging", "threading", "builtins")
"""Modules of Python whose objects (generators, locks, loggers) are left alone."""


@contextmanager
def preserving(module: nn.Module) -> Iterator[None]:
    """Whatever the block does, by running the module or by failing in it, its state is as before afterwards."""
    containers = [(held, _content(held)) for held in _reachable(module)]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    devices = {tensor.device.index for tensor in module.parameters() if tensor.device.type == "cuda"}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for held, content in containers:
            if held or content:
                _restore(held, content)
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):  # batch norm does not count up the version
                    buffer.copy_(value)


def duplicate(module: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """A deep copy, parameters with their attributes. Tensors that are kept on the module are copied without what
    they were computed from; those that are to be shared are not copied.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    for held in _reachable(module):
        if not held and type(held) in EMPTY_OFTEN:
            memo[id(held)] = type(held)()  # what a deep copy gives, sooner
        for value in _values(held):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    copied = copy.deepcopy(module, memo)
    for old, new in zip(module.parameters(), copied.parameters(), strict=True):
        vars(new).update(vars(old))  # such as tags for an optimiser, which a deep copy forgets
    return copied


def _reachable(module: nn.Module) -> Iterator[Container]:
    """Everything that can be changed in place and be reached from a module: containers, and objects' attributes."""
    seen: set[int] = set()
    waiting: list[Any] = list(module.modules())
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, (Tensor, type, str, int, float, bytes)):
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module) and not isinstance(value, (tuple, frozenset, dict, list, set, deque)):
            yield vars(value)
            for held in vars(value).values():
                if type(held) in EMPTY_OFTEN and not held:  # hooks, mostly
                    if id(held) not in seen:
                        seen.add(id(held))
                        yield held
                elif type(held) not in ATOMS:
                    waiting.append(held)
            continue
        if isinstance(value, MethodType):
            waiting += [value.__self__, value.__func__]
        elif isinstance(value, FunctionType):
            waiting += [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        elif isinstance(value, partial):
            waiting += [value.func, value.args, value.keywords]
        elif isinstance(value, (tuple, frozenset)):
            waiting += list(value)
        elif isinstance(value, (dict, list, set, deque)):
            yield value
            waiting += _values(value) if len(value) <= LARGE else []
        if isinstance(value, nn.Module) or (hasattr(value, "__dict__") and not type(value).__module__.startswith(OWN)):
            yield vars(value)
            waiting += list(vars(value).values())


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # named, and not yet given a value
        return False


def _values(held: Container) -> list[Any]:
    return list(held.values() if isinstance(held, dict) else held)


def _each(held: Container) -> Iterable[Any]:
    return held.values() if isinstance(held, dict) else held


def _content(held: Container) -> dict[Any, Any] | list[Any]:
    return dict(held) if isinstance(held, dict) else list(held)


def _restore(held: Container, content: dict[Any, Any] | list[Any]) -> None:
    """Put a container's content back; one that is as it was is left alone.

    By the methods of Python's own kinds: some containers refuse changes, or watch what is done to them.
    """
    same = len(held) == len(content) and all(map(is_, _each(held), _each(content)))
    if same and (not isinstance(held, dict) or list(held) == list(content)):
        return
    kind: Any = next(kind for kind in KINDS if isinstance(held, kind))
    kind.clear(held)
    if isinstance(content, dict):
        for key, value in content.items():
            kind.__setitem__(held, key, value)
    else:
        put: Any = kind.update if kind is set else kind.extend
        put(held, content)
