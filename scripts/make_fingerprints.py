"""Make extcon_cli/checkpoint/fingerprints.json: `python scripts/make_fingerprints.py`, with timm installed.

Every architecture of torchvision and timm is built without its numbers. Of several whose tensors agree in names and
shapes, those whose modules agree in class and settings too are one: only the first of them is kept.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from itertools import chain
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from extcon_cli.checkpoint.fingerprints import INDEX, FreeDimension, Shapes, fingerprint
from extcon_cli.checkpoint.identify import shapes_of, weightless

IN_TRAINING_ONLY = {"p", "drop_prob", "drop_rate", "scale_by_keep", "training", "inplace", "num_classes"}
"""Settings that change no output in eval mode."""


def main() -> None:
    patterns: dict[str, int] = {}
    architectures: dict[str, list[str]] = {}
    seen: dict[str, set[int]] = {}
    for arch, module, free, defaults in chain(torchvision_models(), timm_models()):
        pattern = json.dumps({"free": [list(vars(part).values()) for part in free], "defaults": defaults})
        number = patterns.setdefault(pattern, len(patterns))
        key = f"{number} {fingerprint(shapes_of(module), free)}"
        function = hash(settings(module))
        if function not in seen.setdefault(key, set()):
            seen[key].add(function)
            architectures.setdefault(key, []).append(arch)
    content = {
        "made_with": {"torchvision": torchvision.__version__.partition("+")[0], "timm": timm.__version__},
        "patterns": [json.loads(pattern) for pattern in patterns],
        "architectures": architectures,
    }
    INDEX.write_text(json.dumps(content, separators=(",", ":")).replace("],", "],\n") + "\n", encoding="utf-8")


Built = tuple[str, nn.Module, tuple[FreeDimension, ...], dict[str, int]]


def torchvision_models() -> Iterator[Built]:
    """All but the quantized ones, whose tensors are those of the plain ones."""
    from torchvision import models

    for name in models.list_models():
        if name.startswith("quantized_"):
            continue
        builder = models.get_model_builder(name)
        accepted = inspect.signature(builder).parameters
        fixed: dict[str, Any] = {key: None for key in ("weights", "weights_backbone") if key in accepted}
        if name in ("googlenet", "inception_v3"):
            fixed["init_weights"] = False
        with nullcontext() if name.startswith("ssdlite") else weightless():  # that one runs itself while it is built
            module = builder(**fixed)
            try:
                other = shapes_of(builder(**fixed, num_classes=7))
            except TypeError:
                other = shapes_of(module)
        free, default = _free(shapes_of(module), other, 7)
        yield f"torchvision:{name}", module, free, {"num_classes": default} if free else {}


def timm_models() -> Iterator[Built]:
    """Those that timm can build here; their configuration names the classifier and the first convolution."""
    for name in timm.list_models():
        try:
            module = _without_numbers(name)
        except Exception as error:  # a missing extra of timm, or a model that cannot be built without numbers
            print(f"left out: timm:{name}: {type(error).__name__}: {str(error)[:80]}", file=sys.stderr)
            continue
        yield _described(name, module)
        if module.num_classes == 0:  # without a head by default; people give it one
            with suppress(Exception):
                yield _described(name, _without_numbers(name, num_classes=1000), default=0)


def _described(name: str, module: nn.Module, default: int | None = None) -> Built:
    """What the configuration of a model of timm says of its free dimensions; `default` classes, if not those built."""
    shapes, config = shapes_of(module), module.pretrained_cfg
    built = {"num_classes": int(module.num_classes), "in_chans": config.get("input_size", (3,))[0]}
    ends = (("classifier", "num_classes", 0), ("first_conv", "in_chans", 1))
    free = tuple(
        FreeDimension(tensor, dim, argument, shapes[tensor][dim] // built[argument])
        for key, argument, dim in ends
        for place in _places(config.get(key))
        for tensor in (f"{place}.weight", f"{place}.bias")
        if len(shapes.get(tensor, ())) > dim and built[argument] and shapes[tensor][dim] % built[argument] == 0
    )
    used = {part.argument for part in free}
    if default is not None:
        built["num_classes"] = default
    return f"timm:{name}", module, free, {key: value for key, value in built.items() if key in used}


def _without_numbers(name: str, **kwargs: Any) -> nn.Module:
    try:
        with weightless():
            return timm.create_model(name, **kwargs)
    except NotImplementedError:  # it copies between numbers that are there and some that are not
        with torch.device("meta"):
            return timm.create_model(name, **kwargs)
    except RuntimeError:  # it runs a part of itself while it is built, to know the shape of what that gives
        return timm.create_model(name, **kwargs)


def _places(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) if value else ()


def _free(one: Shapes, other: Shapes, classes: int) -> tuple[tuple[FreeDimension, ...], int]:
    """The dimensions by which the two differ, and the number of classes of the first."""
    parts, default = [], 0
    for name, shape in one.items():
        for dim, (mine, theirs) in enumerate(zip(shape, other.get(name, shape), strict=True)):
            if mine != theirs:
                factor = theirs // classes
                parts.append(FreeDimension(name, dim, "num_classes", factor))
                default = mine // factor
    return tuple(parts), default


def settings(module: nn.Module) -> str:
    """Class and settings of every module inside: equal ones compute the same from the same tensors."""
    lines = []
    for name, part in module.named_modules():
        plain = {
            key: _plain(value)
            for key, value in sorted(vars(part).items())
            if key not in IN_TRAINING_ONLY and not key.startswith("_") and "cfg" not in key
        }
        lines.append(f"{name} {type(part).__module__}.{type(part).__qualname__} {plain}")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return getattr(value, "__qualname__", type(value).__qualname__)


if __name__ == "__main__":
    main()
