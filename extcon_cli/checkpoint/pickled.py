"""From a whole pickled module to the architecture that builds the same module anew, so that it need not be pickled.

It runs the class's own code; that module was unpickled before, which ran code already.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from extcon_cli.checkpoint.architectures import build
from extcon_cli.checkpoint.identify import Candidate, identify
from extcon_cli.checkpoint.load import fill
from extcon_cli.errors import ExtconError


def architecture(module: nn.Module, state: Mapping[str, Tensor], folder: Path) -> Candidate | None:
    """The architecture of a library, or the module's own class, that gives a module like this one; None: neither.

    `folder` is that of the checkpoint, where the class may be found beside it.
    """
    for candidate in _candidates(module, state):
        try:
            twin = build(candidate.arch, candidate.kwargs, trust_code=True, beside=folder)
            fill(twin, state, source="the pickled module", arch=candidate.arch)
        except ExtconError:
            continue
        if type(twin) is type(module) and repr(twin) == repr(module):
            return candidate
    return None


def _candidates(module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[Candidate]:
    yield from (candidate for candidate in identify(state) if candidate.score == 1)
    kind = type(module)
    if "." not in kind.__qualname__ and not kind.__module__.startswith("torch.nn"):
        yield Candidate(f"{kind.__module__}:{kind.__qualname__}", _arguments(module))


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Arguments of the constructor that the module keeps as attributes of the same name, where they tell something."""
    found = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        value = getattr(module, name, parameter.default)
        if name != "self" and _plain(value) and value != parameter.default:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
