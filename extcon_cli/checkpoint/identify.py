"""Tell the architecture of a state dict by names and shapes of tensors, among the zoo's, torchvision's and timm's.

Nothing is guessed: an architecture fits if every name and shape is its own; only the number of classes and the
channels of the input may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.checkpoint.fingerprints import Shapes, lookup
from extcon_cli.checkpoint.fit import peeled
from extcon_cli.checkpoint.said import told
from extcon_cli.checkpoint.sketch import Unfilled
from extcon_cli.checkpoint.state import COUNTER
from extcon_cli.checkpoint.zoo import ZOO


@dataclass(frozen=True)
class Candidate:
    """An architecture that a state dict may belong to."""

    arch: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    score: float = 1.0
    """Tensors that agree in name and shape, as a share of all in either. 1: fits."""
    rivals: tuple[str, ...] = ()
    """Architectures of other libraries with the same names and shapes, which compute something else."""
    said: bool = False
    """Several have the same names and shapes, and the file says that it is this one."""

    @property
    def name(self) -> str:
        """Without the library."""
        return self.arch.partition(":")[2]

    def __str__(self) -> str:
        given = "".join(f", {key}={value}" for key, value in self.kwargs.items())
        return f"{self.arch}{given} ({int(100 * self.score)} % of its tensors)"


def identify(state: Mapping[str, Tensor], said: Sequence[str] = ()) -> list[Candidate]:
    """The architectures that share tensors with the state, the nearest first; those with score 1 fit.

    What is foreign by its name is set aside, and prefixes that all names have in common are taken off. Of the zoo,
    torchvision and timm, the first that knows a fitting architecture is asked alone; but of several that fit, the one
    counts that `said`, texts in and around the file, names.
    """
    inner: Shapes = {}
    for part in peeled(state):
        inner = {name: tuple(tensor.shape) for name, tensor in part.items() if not name.endswith(COUNTER)}
        zoo = [_compare(f"zoo:{name}", inner) for name, entry in ZOO.items() if entry.identifiable]
        if fitting := [candidate for candidate in zoo if candidate.score == 1] or _known(inner, said):
            return fitting
    near = [_compare(f"torchvision:{name}", inner) for name in _torchvision_names(inner)]
    return sorted((c for c in (*zoo, *near) if c.score > 0), key=lambda c: (-c.score, c.arch))


def _known(shapes: Shapes, said: Sequence[str]) -> list[Candidate]:
    """The one that the file says; else the architectures of torchvision that have these tensors; else those of timm.

    What has one name in both libraries computes the same in both.
    """
    found = [Candidate(arch, dict(kwargs)) for arch, kwargs in lookup(shapes)]
    found.sort(key=lambda candidate: not candidate.arch.startswith("torchvision:"))
    if (name := told([candidate.name for candidate in found], said)) and len({c.name for c in found}) > 1:
        return [replace(next(candidate for candidate in found if candidate.name == name), said=True)]
    first = [candidate for candidate in found if candidate.arch.startswith("torchvision:")]
    names = {candidate.name for candidate in first}
    rivals = tuple(candidate.arch for candidate in found if candidate.name not in names)
    return [replace(candidate, rivals=rivals) for candidate in first] or found


def _compare(arch: str, wanted: Shapes) -> Candidate:
    shapes, kwargs = _skeleton(arch), {}
    if classes := _classes(shapes, wanted):
        shapes, kwargs = _skeleton(arch, classes), {"num_classes": classes}
    same = sum(wanted.get(name) == shape for name, shape in shapes.items())
    return Candidate(arch, kwargs, same / len(wanted.keys() | shapes.keys()))


def _classes(shapes: Shapes, wanted: Shapes) -> int | None:
    """The number of classes of the state, if that alone tells it from the architecture with its default number."""
    if shapes.keys() != wanted.keys():
        return None
    pairs = [(shapes[name], wanted[name]) for name in shapes if shapes[name] != wanted[name]]
    if any(not mine or not theirs or mine[1:] != theirs[1:] for mine, theirs in pairs):
        return None
    changes = {(mine[0], theirs[0]) for mine, theirs in pairs}
    return next(iter(changes))[1] if len(changes) == 1 else None


def _torchvision_names(wanted: Shapes) -> Iterator[str]:
    """The classification models whose family, told by its first member's first tensor, is that of the state."""
    import torchvision.models as tv

    def family(name: str) -> str:
        return tv.get_model_builder(name).__module__

    for _, names in groupby(sorted(tv.list_models(module=tv), key=family), key=family):
        first, *others = names
        if next(iter(_skeleton(f"torchvision:{first}"))) in wanted:
            yield from (first, *others)


@lru_cache(maxsize=256)
def _skeleton(arch: str, classes: int | None = None) -> Shapes:
    """Names and shapes of a known architecture, without allocating its numbers."""
    kwargs: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    source, _, name = arch.partition(":")
    builder: Callable[..., nn.Module]
    if source == "zoo":
        builder = ZOO[name].build
    else:
        import torchvision.models as tv

        builder = tv.get_model_builder(name)
        if name in ("googlenet", "inception_v3"):
            kwargs["init_weights"] = False  # slow, and warns unless told
    with weightless(), Unfilled():
        return shapes_of(builder(**kwargs))


def shapes_of(module: nn.Module) -> Shapes:
    """Names and shapes of a module's tensors, counters of batch norm left out."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if not name.endswith(COUNTER)}


@contextmanager
def weightless() -> Iterator[None]:
    """Modules built inside have their parameters on the meta device, so that filling them costs nothing.

    `torch.device("meta")` would do, but for RegNet, which computes its widths with tensors.
    """
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign,assignment]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
