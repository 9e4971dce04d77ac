"""What the layers of an Ultralytics model give, before boxes are made of it: this is traced, and compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import Tensor, nn


@contextmanager
def raw_outputs(model: nn.Module) -> Iterator[None]:
    """Within, a model in eval mode gives what its last layers give, before boxes are made of it.

    It gives the maps that the head reads as well, for its loss; were they outputs, none of their channels could go.
    """
    vars(model)["forward"] = MethodType(_raw, model)
    try:
        yield
    finally:
        vars(model).pop("forward", None)


def plain_outputs(model: nn.Module) -> None:
    """Undo it in a copy that was made within."""
    for module in model.modules():
        if getattr(vars(module).get("forward"), "__func__", None) is _raw:
            del vars(module)["forward"]


def _raw(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    head = model.model[-1]
    training, head.training = head.training, True  # the head alone: its layers are as they were
    try:
        output = type(model).forward(model, inputs, *args, **kwargs)
    finally:
        head.training = training
    return list(_predictions(output)) or output


def _predictions(output: Any) -> Iterator[Tensor]:
    """The tensors of the dictionaries in an output, without the maps that the head read."""
    if isinstance(output, dict):
        for name, value in output.items():
            if name != "feats":
                yield from [value] if isinstance(value, Tensor) else _predictions(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _predictions(value)
