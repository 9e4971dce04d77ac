"""From the name of an architecture to a module with fresh numbers. Downloads nothing; runs user code only if trusted.

Which architecture a state dict belongs to is told by identify.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from extcon_cli.checkpoint import lean_torchvision
from extcon_cli.checkpoint.habits import habit
from extcon_cli.checkpoint.identify import Candidate, identify
from extcon_cli.checkpoint.sketch import TooLarge, sketch
from extcon_cli.checkpoint.user_code import find_factory
from extcon_cli.checkpoint.zoo import ZOO
from extcon_cli.errors import UsageError, typed_line

__all__ = ["Candidate", "build", "default_input_shape", "identify"]

# Arguments by which these libraries fetch or open trained numbers. Ours come from the checkpoint alone.
FETCHING = {
    *("weights", "weights_backbone", "pretrained", "pretrained_backbone", "use_pretrained_backbone"),
    *("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
}


def build(
    arch: str,
    kwargs: Mapping[str, Any],
    *,
    trust_code: bool = False,
    beside: Path | None = None,
    tensors: int | None = None,
    check: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Build `torchvision:NAME`, `zoo:NAME`, `timm:NAME`, `transformers:CLASS`, `file.py:factory` or `package:factory`.

    The last two run the user's code and need `trust_code`; a `file.py` that is not where its path says is looked
    for in the folder `beside`. UsageError if the name is unknown, a library is missing or an argument does not fit.

    A library's module is first built without its numbers, as `check` sees it: UsageError if they take more memory than
    there may be (`limits.memory_limit`), or are far more than the `tensors` that it should have.
    """
    source, colon, name = arch.partition(":")
    if not colon:
        near = [f"{prefix}:{arch}" for prefix, names in _known().items() if arch in names]
        raise UsageError(
            f"architecture {arch!r} should look like zoo:digits_resnet, torchvision:resnet18 or file.py:factory"
            + _hint(near)
        )
    if source in BUILDERS:
        if fetching := _fetching(kwargs):
            raise UsageError(f"{arch}: {fetching} would fetch weights from elsewhere; leave it out of model.kwargs")
        factory = BUILDERS[source](name)
        _check_size(factory, arch, kwargs, tensors, check)
    else:
        if typo := get_close_matches(source, BUILDERS, n=1, cutoff=0.8):
            raise UsageError(f"architecture {arch!r} is not known" + _hint([f"{typo[0]}:{name}"]))
        factory = find_factory(arch, trust_code=trust_code, beside=beside)
    return _call(factory, arch, kwargs)


def default_input_shape(arch: str, kwargs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Shape of one input without the batch, where the architecture has a customary one."""
    known = habit(arch, kwargs)
    return known.input_shape if known is not None else None


LARGEST_ARGUMENT = 10**7
"""No architecture of a library has more of anything along one side; loops of more would never end."""


def _largest(value: Any) -> int:
    """The largest whole number in the arguments, at any depth."""
    if isinstance(value, Mapping):
        return max(map(_largest, value.values()), default=0)
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int) else 0


def _check_size(
    factory: Callable[..., Any],
    arch: str,
    kwargs: Mapping[str, Any],
    tensors: int | None,
    check: Callable[[nn.Module], None] | None,
) -> None:
    if (largest := _largest(kwargs)) > LARGEST_ARGUMENT:
        raise UsageError(f"{arch}{_with(kwargs)} cannot be built: {largest} of anything is too many")
    try:
        drawn = sketch(factory, dict(kwargs), tensors)
    except TooLarge as error:
        raise UsageError(f"{arch}{_with(kwargs)} {error}") from None
    if drawn is not None and check is not None:
        check(drawn)


def _call(factory: Callable[..., Any], arch: str, kwargs: Mapping[str, Any]) -> nn.Module:
    try:
        module = factory(**kwargs)
    except Exception as error:  # a library's or the user's own: any kind
        raise UsageError(f"{arch} cannot be built{_with(kwargs)}: {_reason(error, factory, kwargs)}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{arch} gave {type(module).__name__}, not a torch.nn.Module")
    return module


def _reason(error: Exception, factory: Callable[..., Any], kwargs: Mapping[str, Any]) -> str:
    if isinstance(error, TypeError):
        accepted = list(inspect.signature(factory).parameters)
        for key in set(kwargs) - set(accepted):
            if f"'{key}'" in str(error):
                return f"it has no argument {key!r}" + _hint(get_close_matches(key, accepted, n=1))
    return typed_line(error)


def _with(kwargs: Mapping[str, Any]) -> str:
    text = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    return f" with {text if len(text) <= 80 else text[:77] + '...'}" if text else ""


def _fetching(value: Any) -> str | None:
    """The first argument, at any depth, that asks for trained numbers."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in FETCHING and inner not in (None, False):
                return f"{key}={str(inner)[:40]}"
            if found := _fetching(inner):
                return found
    if isinstance(value, list | tuple):
        return next(filter(None, map(_fetching, value)), None)
    return None


def _zoo(name: str) -> Callable[..., nn.Module]:
    if name not in ZOO:
        raise _unknown("zoo", name, ZOO)
    return ZOO[name].build


def _torchvision(name: str) -> Callable[..., nn.Module]:
    tv = lean_torchvision.models()
    if name not in tv.list_models():
        raise _unknown("torchvision", name, tv.list_models())
    builder = tv.get_model_builder(name)
    fixed = {key: None for key in ("weights", "weights_backbone") if key in inspect.signature(builder).parameters}

    def factory(**kwargs: Any) -> nn.Module:
        return builder(**{**kwargs, **fixed})

    factory.__signature__ = inspect.signature(builder)  # type: ignore[attr-defined]
    return factory


def _timm(name: str) -> Callable[..., nn.Module]:
    timm = _library("timm")
    if not timm.is_model(name):  # refuses hf-hub: and local-dir: names as well, which would fetch
        raise _unknown("timm", name, timm.list_models())

    def factory(**kwargs: Any) -> nn.Module:
        return timm.create_model(name, **{**kwargs, "pretrained": False})

    return factory


def _transformers(name: str) -> Callable[..., nn.Module]:
    transformers = _library("transformers")
    model = getattr(transformers, name, None)
    config = getattr(model, "config_class", None)
    if model is None or config is None:
        names = [n for n in dir(transformers) if "For" in n or n.endswith("Model")]
        raise _unknown("transformers", name, names)

    def factory(**kwargs: Any) -> nn.Module:
        return model(config(**kwargs))

    return factory


BUILDERS: dict[str, Callable[[str], Callable[..., nn.Module]]] = {
    "zoo": _zoo,
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}


def _library(name: str) -> ModuleType:
    if find_spec(name) is None:
        raise UsageError(f"architectures of {name} need it installed: pip install {name}")
    return import_module(name)


def _known() -> dict[str, Iterable[str]]:
    import torchvision.models as tv

    return {"zoo": ZOO, "torchvision": tv.list_models()}


def _unknown(source: str, name: str, names: Iterable[str]) -> UsageError:
    near = [f"{source}:{match}" for match in get_close_matches(name, list(names), n=3)]
    return UsageError(f"{source} has no architecture {name[:60]!r}" + _hint(near))


def _hint(near: Iterable[str]) -> str:
    near = list(near)
    return f"; did you mean {' or '.join(near)}?" if near else ""
