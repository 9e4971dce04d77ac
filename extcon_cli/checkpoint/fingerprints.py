"""Architectures of torchvision and timm by the fingerprint of their tensors' names and shapes. Builds no module.

The index beside this file is made by scripts/make_fingerprints.py, so that neither library is asked at run time.
A fingerprint leaves out the dimensions that an argument decides (the number of classes, the input's channels).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

INDEX = Path(__file__).with_name("fingerprints.json")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class FreeDimension:
    """A dimension of a tensor that an argument of the architecture decides: its size is factor * argument."""

    tensor: str
    dim: int
    argument: str
    factor: int = 1


@dataclass(frozen=True)
class Pattern:
    """The free dimensions that some architectures have in common, and the arguments' defaults there."""

    free: tuple[FreeDimension, ...]
    defaults: Mapping[str, int]

    def arguments(self, shapes: Shapes) -> dict[str, int] | None:
        """The arguments by which these shapes are made; None if no arguments make them."""
        found: dict[str, int] = {}
        for free in self.free:
            shape = shapes.get(free.tensor, ())
            if len(shape) <= free.dim or shape[free.dim] % free.factor:
                return None
            value = shape[free.dim] // free.factor
            if value == 0 or found.setdefault(free.argument, value) != value:
                return None
        return found


def fingerprint(shapes: Shapes, free: Sequence[FreeDimension] = ()) -> str:
    """12 hexadecimal digits of the names and shapes, whatever the free dimensions are."""
    open_dims = {(part.tensor, part.dim) for part in free}
    digest = blake2b(digest_size=6)
    for name in sorted(shapes):
        shown = ",".join("?" if (name, dim) in open_dims else str(size) for dim, size in enumerate(shapes[name]))
        digest.update(f"{name}:{shown}\n".encode())
    return digest.hexdigest()


def lookup(shapes: Shapes) -> Iterator[tuple[str, dict[str, int]]]:
    """The architectures with exactly these tensors, each with the arguments that differ from its defaults."""
    for number, pattern in enumerate(_index()[0]):
        arguments = pattern.arguments(shapes)
        if arguments is None:
            continue
        for arch in _index()[1].get(f"{number} {fingerprint(shapes, pattern.free)}", ()):
            yield arch, {name: value for name, value in arguments.items() if value != pattern.defaults[name]}


@cache
def _index() -> tuple[list[Pattern], dict[str, list[str]]]:
    """The patterns, and the architectures under `NUMBER FINGERPRINT` (number of the pattern)."""
    content = json.loads(INDEX.read_text(encoding="utf-8"))
    patterns = [
        Pattern(tuple(FreeDimension(*free) for free in entry["free"]), entry["defaults"])
        for entry in content["patterns"]
    ]
    return patterns, content["architectures"]
