"""torchvision's models without torch._dynamo, whose import takes as long as that of torch.

torchvision.ops imports one function of it, to ask when it pools regions whether torch.compile works here. It gets one
that asks when it is called. Anything else that it wants of torch._dynamo while it is imported is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

NAME = "torch._dynamo.utils"


def models() -> Any:
    """The module torchvision.models."""
    with _dynamo_put_off():
        return import_module("torchvision.models")


@contextmanager
def _dynamo_put_off() -> Iterator[None]:
    """A stand-in for torch._dynamo.utils while the block runs, unless that is there already."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    stand_in: Any = ModuleType(NAME)
    stand_in.is_compile_supported = _is_compile_supported
    stand_in.__getattr__ = _wanted
    sys.modules[NAME] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(NAME) is stand_in:
            del sys.modules[NAME]


def _is_compile_supported(device_type: object) -> object:
    return import_module(NAME).is_compile_supported(device_type)


def _wanted(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    sys.modules.pop(NAME, None)
    return getattr(import_module(NAME), name)
