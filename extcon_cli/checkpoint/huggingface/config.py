"""The sizes in a configuration of transformers, and the shapes of the tensors that they make. Allocates no weights.

Which size makes which dimension is not told by names: the configuration is changed, the model built on the meta
device, and the shapes are compared.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn

from extcon_cli.channels.deferred import Deferred
from extcon_cli.errors import UsageError

Shapes = Mapping[str, tuple[int, ...]]
"""Of the tensors of a state dict, by name."""
Values = Mapping[tuple[str, ...], int | float]
"""New values of a configuration's fields, by their place in it: `("text_config", "hidden_size")`."""


@dataclass(frozen=True)
class Field:
    """A size in a configuration, and the dimensions of tensors that it makes."""

    place: tuple[str, ...]
    value: int | None
    """None: the configuration leaves it to a default that other sizes make."""
    dims: frozenset[tuple[str, int]]
    """(tensor, dimension) of all that it makes."""

    @property
    def name(self) -> str:
        return ".".join(self.place)


def transformers() -> Any:
    """The library. UsageError: it is not installed."""
    if find_spec("transformers") is None:
        raise UsageError("folders of Hugging Face need transformers installed: pip install transformers")
    return import_module("transformers")


def plain(config: Any) -> dict[str, Any]:
    """All of a configuration as JSON has it."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return values


def changed(config: Any, values: Values) -> Any:
    """A configuration with other values, checked as the library checks it on loading; any error of the library's."""
    content = config.to_dict()
    for place, value in values.items():
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
    with quiet():
        return type(config).from_dict(content)


def assign(config: Any, values: Values) -> None:
    """Put other values into a configuration in use; the library has accepted them, as `changed` does it."""
    for place, value in values.items():
        inner = config
        for key in place[:-1]:
            inner = getattr(inner, key)
        setattr(inner, place[-1], value)


def shapes_of(kind: type[nn.Module], config: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the state dict that a model of this configuration has."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]), quiet():
        return {name: tuple(tensor.shape) for name, tensor in kind(config).state_dict().items()}


def unfilled(kind: type[nn.Module], config: Any) -> Any:
    """A model of this configuration on the CPU, in eval mode, whose weights wait to be filled."""
    home = "initialization" if find_spec("transformers.initialization") else "modeling_utils"  # since 5, before
    with import_module(f"transformers.{home}").no_init_weights(), torch.random.fork_rng(devices=[]), quiet():
        module: Any = kind(config).eval()
        module.tie_weights()
    return module


def filled(kind: type[nn.Module], config: Any, state: Mapping[str, Tensor], *, assign: bool = False) -> nn.Module:
    """A model of this configuration with these tensors, all of them. RuntimeError: they are not its own.

    `assign`: with the tensors themselves, not with copies of them; deferred ones are taken so in any case.
    """
    if assign or any(isinstance(tensor, Deferred) for tensor in state.values()):
        with import_module("accelerate").init_empty_weights():
            empty: Any = unfilled(kind, config)
        empty.load_state_dict(state, strict=True, assign=True)
        empty.tie_weights()
        return cast(nn.Module, empty)
    module: nn.Module = unfilled(kind, config)
    if any(tensor.dtype == torch.float64 for tensor in state.values()):
        module.double()
    module.load_state_dict(state, strict=True)
    return module


def fields(kind: type[nn.Module], config: Any) -> list[Field]:
    """Every size of a configuration that makes dimensions of tensors, and leaves their names as they are."""
    now, found = shapes_of(kind, config), []
    for place, value in _entries(plain(config)):
        if isinstance(value, bool) or not (value is None or (isinstance(value, int) and value > 1)):
            continue
        for trial in (11,) if value is None else (value // 2, 2 * value, value - 1, value + 1):
            try:
                then = shapes_of(kind, changed(config, {place: trial}))
            except Exception:  # the library refuses what a field cannot be, in many ways
                continue
            if then.keys() == now.keys() and all(len(then[name]) == len(now[name]) for name in now):
                dims = {(name, dim) for name in now for dim, size in enumerate(now[name]) if then[name][dim] != size}
                found += [Field(place, value, frozenset(dims))] if dims else []
                break
    return found


def epsilons(config: Any, value: float) -> list[tuple[str, ...]]:
    """The fields that hold this eps of a norm."""
    return [place for place, held in _entries(plain(config)) if type(held) is float and held == value
            and "eps" in place[-1]]  # fmt: skip


def _entries(content: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of a configuration by its place, those of configurations inside it too."""
    for key, value in content.items():
        if isinstance(value, dict) and "model_type" in value:
            yield from _entries(value, (*place, key))
        else:
            yield (*place, key), value


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress, which has no place in ours, and its advice on trial configurations."""
    log, shown = logging.getLogger("transformers"), transformers().utils.logging
    level, bars = log.level, shown.is_progress_bar_enabled()
    log.setLevel(logging.ERROR)
    shown.disable_progress_bar()
    try:
        yield
    finally:
        log.setLevel(level)
        if bars:
            shown.enable_progress_bar()
