"""A user's module as it was before it was run: attributes, containers, buffers, hooks, random numbers.

Models keep things on themselves while they run: an activation, a grid of anchors, a counter. Tracing would leave
tensors without values there. Everything that can be reached from a module and changed in place is noted before and put
back after. Globals of the model's code are not.
"""

from __future__ import annotations

import copy
import copyreg
import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from operator import is_
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from extcon_cli.channels.modules import named_tensors, stand_in, submodules

LARGE = 10_000
"""Containers of more entries are noted, not walked through: data, not state."""

Container = dict[Any, Any] | list[Any] | set[Any] | deque[Any]

KINDS = (OrderedDict, dict, list, set, deque)

ATOMS = {bool, int, float, str, type(None)}
"""Kinds that are their own copies."""
NOT_WALKED = {*ATOMS, nn.Parameter, Tensor, torch.Size}
EMPTY_OFTEN = {OrderedDict, dict, list, set}

OWN = ("torch.", "numpy.", "logging", "threading", "builtins")
"""Modules of Python whose objects (generators, locks, loggers) are left alone."""


@contextmanager
def preserving(module: nn.Module) -> Iterator[None]:
    """Whatever the block does, by running the module or by failing in it, its state is as before afterwards."""
    reached = _Reached(module)
    containers = [(held, _content(held)) for held in reached.filled]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers() if not buffer.is_meta]
    devices = {tensor.device.index for tensor in module.parameters() if tensor.device.type == "cuda"}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for held, content in containers:
            _restore(held, content)
        for held in reached.empty:
            if held:
                _kind(held).clear(held)
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):  # batch norm does not count up the version
                    buffer.copy_(value)


def duplicate(module: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """A deep copy, parameters with their attributes. Tensors that are kept on the module are copied without what
    they were computed from; those that are to be shared are not copied.
    """
    return _duplicate(module, {id(tensor): tensor for tensor in shared})


def sketch(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are meta tensors: to be cut and traced, not to be run."""
    tensors = {id(tensor): tensor for tensor in named_tensors(module).values()}
    return _duplicate(module, {key: stand_in(tensor) for key, tensor in tensors.items()})


def _duplicate(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy with these in the place of what has these ids."""
    for held in _Reached(module).filled:
        for value in _each(held):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    copied: nn.Module = _copied(module, memo)
    for old, new in zip(module.parameters(), copied.parameters(), strict=True):
        vars(new).update(vars(old))  # such as tags for an optimiser, which a deep copy forgets
    return copied


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """What copy.deepcopy gives, sooner for modules and what most of them hold: half of a copy's time went there."""
    kind: Any = type(value)
    if kind in ATOMS or (kind is tuple and ATOMS.issuperset(map(type, value))):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in EMPTY_OFTEN and not value:
        made = memo[id(value)] = kind()
    elif kind is dict and ATOMS.issuperset(map(type, value)):  # keys that are their own copies
        made = memo[id(value)] = {}
        made.update({key: _copied(part, memo) for key, part in value.items()})
    elif _is_copied_by_state(kind) and "__deepcopy__" not in vars(value):
        made = memo[id(value)] = kind.__new__(kind)
        made.__setstate__({key: _copied(part, memo) for key, part in value.__getstate__().items()})
    else:
        made = copy.deepcopy(value, memo)
    return made


@cache
def _is_copied_by_state(kind: Any) -> bool:
    """Whether a class of modules leaves all of what copying means to nn.Module."""
    plain = {"__new__": object, "__reduce__": object, "__reduce_ex__": object, "__getstate__": nn.Module}
    return (
        issubclass(kind, nn.Module)
        and all(getattr(kind, name, None) is getattr(base, name, None) for name, base in plain.items())
        and not any(hasattr(kind, f"__{name}__") for name in ("deepcopy", "getnewargs", "getnewargs_ex", "slots"))
        and kind not in copyreg.dispatch_table
    )


class _Reached:
    """Everything that can be changed in place and be reached from a module: containers, and objects' attributes.

    Those that hold nothing, which are most, stand apart: they have no content to be noted.
    """

    def __init__(self, module: nn.Module) -> None:
        self.filled: list[Container] = []
        self.empty: list[Container] = []
        self.waiting: list[Any] = list(submodules(module))
        self.seen: set[int] = set()
        while self.waiting:
            value = self.waiting.pop()
            if id(value) in self.seen or isinstance(value, (Tensor, type, str, int, float, bytes)):
                continue
            self.seen.add(id(value))
            if isinstance(value, nn.Module) and not isinstance(value, (tuple, frozenset, dict, list, set, deque)):
                self._look_into_attributes(value)
            else:
                self._look_into(value)

    def _look_into_attributes(self, module: nn.Module) -> None:
        attributes = vars(module)
        self.filled.append(attributes)
        for held in attributes.values():
            kind = type(held)
            if kind in NOT_WALKED:
                continue
            if kind in EMPTY_OFTEN and not held:  # hooks, mostly
                if id(held) not in self.seen:
                    self.seen.add(id(held))
                    self.empty.append(held)
            else:
                self.waiting.append(held)

    def _look_into(self, value: Any) -> None:
        if isinstance(value, MethodType):
            self.waiting += [value.__self__, value.__func__]
        elif isinstance(value, FunctionType):
            self.waiting += [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        elif isinstance(value, partial):
            self.waiting += [value.func, value.args, value.keywords]
        elif isinstance(value, (tuple, frozenset)):
            self.waiting += value
        elif isinstance(value, (dict, list, set, deque)):
            (self.filled if value else self.empty).append(value)
            self.waiting += _each(value) if len(value) <= LARGE else []
        if isinstance(value, nn.Module) or (hasattr(value, "__dict__") and not type(value).__module__.startswith(OWN)):
            attributes = vars(value)
            self.filled.append(attributes)
            self.waiting += attributes.values()


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # named, and not yet given a value
        return False


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
    kind = _kind(held)
    kind.clear(held)
    if isinstance(content, dict):
        for key, value in content.items():
            kind.__setitem__(held, key, value)
    else:
        put: Any = kind.update if kind is set else kind.extend
        put(held, content)


def _kind(held: Container) -> Any:
    """Python's own kind of a container."""
    return next(kind for kind in KINDS if isinstance(held, kind))
