"""The widths in the YAML of an Ultralytics model, and the shapes of the tensors that they make. Allocates no weights.

A YAML lists layers as rows [from, repeats, class, arguments], and scales their widths and repeats by a factor. Written
out, each row says its own numbers. A row's first argument is the channels that it gives, and a share `e` of these (C2f,
C3k2, C3...) is what it has inside.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from extcon_cli.checkpoint.ultralytics.library import library, quiet
from extcon_cli.errors import GateError

Shapes = Mapping[str, tuple[int, ...]]
"""Of the tensors of a state dict, by name."""
STEP = 8
"""Ultralytics makes the channels that a row gives a multiple of this."""
SCALES = ("scales", "scale", "depth_multiple", "width_multiple")
"""What of a YAML scales its rows."""
Quirk = tuple[str, dict[str, Any]]
LARGE: dict[str, Quirk] = {"C3k2": ("mlx", {"c3k": True}), "A2C2f": ("lx", {"residual": True, "mlp_ratio": 1.2})}
"""Arguments that Ultralytics gives classes in models of these scales, whatever their rows say."""
NOTHING: Quirk = ("", {})


@dataclass(frozen=True)
class Width:
    """A number of a YAML that is written out."""

    row: int
    kind: Literal["channels", "hidden"]
    value: int

    @property
    def name(self) -> str:
        return f"row {self.row}, {self.kind}"

    @property
    def step(self) -> int:
        """Of what it has to be a multiple."""
        return STEP if self.kind == "channels" else 1


def written_out(model: Any) -> dict[str, Any]:
    """The YAML of a model with nothing left to scale.

    Raises:
        GateError: it does not build the model, which was changed after it was built.
    """
    config: dict[str, Any] = copy.deepcopy(dict(model.yaml))
    scale = config.get("scale") or next(iter(config.get("scales") or {}), "")
    depth, width, most = (config.get("scales") or {}).get(scale) or (
        config.get("depth_multiple", 1.0), config.get("width_multiple", 1.0), math.inf,
    )  # fmt: skip
    for row in _rows(config):
        row[1] = max(round(row[1] * depth), 1) if row[1] > 1 else row[1]
        if _is_base(row):
            row[3][0] = _whole(min(row[3][0], most) * width)
            scales, given = LARGE.get(row[2], NOTHING)
            for name, value in given.items() if scale and scale in scales else ():
                _put(row, name, value)
        elif row[2].startswith(("Segment", "YOLOESegment")) and len(row[3]) > 2:
            row[3][2] = _whole(min(row[3][2], most) * width)
    for key in SCALES:
        config.pop(key, None)
    if shapes_of(config) != {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}:
        raise GateError(
            "the YAML in the checkpoint does not build its model: set prune.widths to free, for a file that "
            "Ultralytics validates, predicts with and exports, but does not train"
        )
    return config


def widths(config: Mapping[str, Any]) -> list[Width]:
    """Every width that a written out YAML says."""
    found = []
    for place, row in enumerate(_rows(config)):
        if _is_base(row):
            found.append(Width(place, "channels", row[3][0]))
            if _place(row[2], "e") is not None:
                found.append(Width(place, "hidden", int(row[3][0] * _argument(row, "e"))))
    return found


def with_widths(config: Mapping[str, Any], values: Mapping[Width, int]) -> dict[str, Any]:
    """A written out YAML with other widths; those that are not given stay."""
    changed = copy.deepcopy(dict(config))
    rows = _rows(changed)
    hidden = {width.row: values.get(width, width.value) for width in widths(config) if width.kind == "hidden"}
    for width, value in values.items():
        if width.kind == "channels":
            rows[width.row][3][0] = value
    for place, inside in hidden.items():
        row = rows[place]
        if int(row[3][0] * _argument(row, "e")) != inside:
            share = inside / row[3][0]
            _put(row, "e", share if int(row[3][0] * share) == inside else (inside + 0.5) / row[3][0])
    return changed


def shapes_of(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the state dict that a model of this YAML has."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]), quiet():
        layers, _ = library("nn.tasks").parse_model(copy.deepcopy(dict(config)), ch=_channels(config), verbose=False)
    return {f"model.{name}": tuple(tensor.shape) for name, tensor in layers.state_dict().items()}


def built(model: Any, config: Mapping[str, Any]) -> Any:
    """A model of this YAML with the weights, names and settings of `model`, which has its shapes.

    Raises:
        RuntimeError: it has not.
    """
    with torch.random.fork_rng(devices=[]), quiet():
        # all models that it builds share their activations
        twin = copy.deepcopy(type(model)(copy.deepcopy(dict(config)), ch=_channels(config), verbose=False))
    twin.load_state_dict(model.state_dict(), strict=True)
    ours = ("yaml", "model", "save", "stride", "criterion", "training", "forward")
    for name, value in vars(model).items():
        if not name.startswith("_") and name not in ours:
            setattr(twin, name, value)
    like: nn.Module = model
    for name, module in twin.named_modules():
        if hasattr(module, "inplace"):
            module.inplace = getattr(like.get_submodule(name), "inplace", module.inplace)
    return twin.to(next(like.parameters())).train(like.training)


def unbuildable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A YAML from which nothing can be built, for widths that none can say: so that no other model is trained."""
    head = [[-1, 1, "pruned_to_widths_that_no_yaml_says", []], *config["head"]]
    return {**config, "head": head}


def _channels(config: Mapping[str, Any]) -> int:
    return int(config.get("channels", 3))


def _rows(config: Mapping[str, Any]) -> list[Any]:
    return [*config["backbone"], *config["head"]]


def _class(name: str) -> Any:
    if name.startswith("nn."):
        return getattr(nn, name[3:], None)
    return getattr(library("nn.tasks"), name, None)


def _parameters(name: str) -> list[str]:
    """Names of the arguments that a class takes."""
    found = _class(name)
    return list(inspect.signature(found).parameters) if isinstance(found, type) else []


def _is_base(row: Any) -> bool:
    """Does a row say how many channels it gives? A classifier gives its classes."""
    known = _parameters(row[2])[:2] == ["c1", "c2"] or row[2] == "nn.ConvTranspose2d"
    return known and row[2] != "Classify" and bool(row[3]) and isinstance(row[3][0], int | float)


def _place(name: str, argument: str) -> int | None:
    """Where in a row's arguments one of a class stands: Ultralytics puts in c1, and repeats where they are taken."""
    known = _parameters(name)
    if argument not in known:
        return None
    return known.index(argument) - (2 if known[2:3] == ["n"] else 1)


def _argument(row: Any, name: str) -> Any:
    place = _place(row[2], name)
    assert place is not None
    return row[3][place] if place < len(row[3]) else _defaults(row[2])[name]


def _put(row: Any, name: str, value: Any) -> None:
    """Say an argument of a row, and those before it that were left to their defaults."""
    place, defaults = _place(row[2], name), _defaults(row[2])
    if place is None:
        return
    order = {_place(row[2], known): known for known in defaults}
    while len(row[3]) <= place:
        row[3].append(defaults[order[len(row[3])]])
    row[3][place] = value


def _defaults(name: str) -> dict[str, Any]:
    return {key: one.default for key, one in inspect.signature(_class(name)).parameters.items()}


def _whole(value: float) -> int:
    return math.ceil(value / STEP) * STEP
