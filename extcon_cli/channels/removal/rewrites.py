"""What a removal does, as an immutable value: slices cut, constants moved elsewhere, sizes in attributes.

A plan is data: it is stored as JSON with the shrunk checkpoint and replayed when that is loaded. `classify.py` makes
one, `apply.py` carries it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from extcon_cli.channels.analysis.axes import Index, Mask
from extcon_cli.channels.attributes import COUNTS, EPSILONS, WIDTHS
from extcon_cli.errors import CheckpointError


@dataclass(frozen=True)
class Cut:
    """Slices of one dimension of a parameter or buffer that go. `removed` holds half-open ranges."""

    parameter: str
    dim: int
    size: int
    removed: tuple[tuple[int, int], ...]

    @cached_property
    def left(self) -> int:
        """How many positions stay."""
        return self.size - sum(stop - start for start, stop in self.removed)

    @cached_property
    def goes(self) -> Mask:
        """Whether each position goes: (size,)."""
        edges = np.array(self.removed, dtype=np.int64).reshape(-1, 2)
        turns = np.zeros(self.size + 1, dtype=np.int64)
        turns[edges[:, 0]] += 1
        turns[edges[:, 1]] -= 1
        goes: Mask = np.cumsum(turns[:-1]) != 0
        return goes

    def kept(self) -> Index:
        """The positions that stay, in order."""
        return np.flatnonzero(~self.goes)


@dataclass(frozen=True)
class Fold:
    """Constants c that removed channels emit move into the bias of the map that reads them: b += sum c W[:, k]."""

    weight: str
    bias: str
    groups: int
    channels: tuple[int, ...]
    constants: tuple[float, ...]
    dim: int = 1  # the weight's dimension of inputs: 0 where it is stored as (inputs, outputs)


@dataclass(frozen=True)
class Merge:
    """Constants that removed channels emit move into a constant channel that stays: W[:, into] += gain W[:, channel].

    Exact where a fold is not: the carrier is cut off at zero-padded borders as they were.
    """

    weight: str
    groups: int
    channels: tuple[int, ...]
    into: tuple[int, ...]
    gains: tuple[float, ...]
    dim: int = 1


@dataclass(frozen=True)
class Resize:
    """An attribute by which the module's code lays channels out, such as `num_heads`."""

    module: str
    attribute: str
    before: int
    after: int


@dataclass(frozen=True)
class Renorm:
    """A root mean square over `after` of `before` channels, the others zero, and the scale offset + weight after it.

    eps *= before / after; offset + weight *= sqrt(before / after): see rules/inline_norms.py.
    """

    weight: str
    offset: float
    attribute: str  # of its module, that holds eps
    eps: float
    before: int
    after: int

    @property
    def owner(self) -> str:
        """The path of the module."""
        return self.weight.rpartition(".")[0]


@dataclass(frozen=True)
class Rewrite:
    """One change of a plan for a reader: the rule that allows it, where it is made, how many channels it concerns."""

    rule: str
    where: str
    channels: int


@dataclass(frozen=True)
class RemovalPlan:
    """Cuts, folds, merges, sizes, norms. Carried out together, they leave every output of the model as it was."""

    cuts: tuple[Cut, ...] = ()
    folds: tuple[Fold, ...] = ()
    sizes: tuple[Resize, ...] = ()
    merges: tuple[Merge, ...] = ()
    norms: tuple[Renorm, ...] = ()

    def rewrites(self) -> tuple[Rewrite, ...]:
        """Every change, with the rule that allows it."""
        cut = "cut: constant for all that read it, zero or moved"
        fold = "fold: a constant read without padding is a bias"
        merge = "merge: constants are multiples of one that stays"
        size = "size: by which the code lays channels out"
        norm = "norm: a mean square over fewer channels is a multiple of what it was"
        return (
            *(Rewrite(cut, f"{each.parameter}, dimension {each.dim}", each.size - each.left) for each in self.cuts),
            *(Rewrite(fold, each.bias, len(each.channels)) for each in self.folds),
            *(Rewrite(merge, each.weight, len(each.channels)) for each in self.merges),
            *(Rewrite(size, f"{each.module}.{each.attribute}", each.before - each.after) for each in self.sizes),
            *(Rewrite(norm, each.weight, each.before - each.after) for each in self.norms),
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as plain lists and dicts."""
        return {"format": 3, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RemovalPlan:
        """Read a plan back.

        Raises:
            CheckpointError: the data are not a plan.
        """
        try:
            if data["format"] not in (1, 2, 3):  # 2 had no norms, 1 no sizes or merges and weights as (outputs, inputs)
                raise ValueError(f"format {data['format']!r} is not known to this version")
            cuts = tuple(_cut(entry) for entry in data["cuts"])
            folds = tuple(_fold(entry) for entry in data["folds"])
            sizes = tuple(_size(entry) for entry in data.get("sizes", ()))
            merges = tuple(_merge(entry) for entry in data.get("merges", ()))
            norms = tuple(_norm(entry) for entry in data.get("norms", ()))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"the removal plan in the checkpoint is damaged: {error!r}") from error
        return cls(cuts, folds, sizes, merges, norms)


def _cut(entry: Mapping[str, Any]) -> Cut:
    removed = tuple((int(start), int(stop)) for start, stop in entry["removed"])
    cut = Cut(str(entry["parameter"]), int(entry["dim"]), int(entry["size"]), removed)
    edges = [edge for run in removed for edge in run]
    if cut.dim < 0 or edges != sorted(set(edges)) or (edges and (edges[0] < 0 or edges[-1] > cut.size)):
        raise ValueError(f"the slices of {cut.parameter} are out of order")
    return cut


def _fold(entry: Mapping[str, Any]) -> Fold:
    channels, groups, dim = _read(entry)
    values = _numbers(entry["constants"], len(channels))
    if dim == 0 and groups > 1:
        raise ValueError(f"{entry['weight']} in groups holds no outputs to fold into")
    return Fold(str(entry["weight"]), str(entry["bias"]), groups, channels, values, dim)


def _merge(entry: Mapping[str, Any]) -> Merge:
    channels, groups, dim = _read(entry)
    into = tuple(int(position) for position in entry["into"])
    if len(into) != len(channels) or set(into) & set(channels) or min(into, default=0) < 0:
        raise ValueError(f"the channels of {entry['weight']} are merged into channels that go or are not there")
    return Merge(str(entry["weight"]), groups, channels, into, _numbers(entry["gains"], len(channels)), dim)


def _read(entry: Mapping[str, Any]) -> tuple[tuple[int, ...], int, int]:
    """Channels, groups and dimension of the map that reads what is removed."""
    channels = tuple(int(position) for position in entry["channels"])
    groups, dim = int(entry["groups"]), int(entry.get("dim", 1))
    if groups < 1 or any(position < 0 for position in channels):
        raise ValueError(f"the channels of {entry['weight']} are out of range")
    if dim not in (0, 1):
        raise ValueError(f"dimension {dim} of {entry['weight']} holds no inputs")
    return channels, groups, dim


def _numbers(values: Iterable[Any], length: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != length or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{len(numbers)} numbers for {length} channels, or not all finite")
    return numbers


def _size(entry: Mapping[str, Any]) -> Resize:
    size = Resize(str(entry["module"]), str(entry["attribute"]), int(entry["before"]), int(entry["after"]))
    if size.attribute not in (*COUNTS, *WIDTHS) or not 0 < size.after < size.before:
        raise ValueError(f"{size.attribute} of {size.module} cannot become {size.after}")
    return size


def _norm(entry: Mapping[str, Any]) -> Renorm:
    offset, eps = _numbers((entry["offset"], entry["eps"]), 2)
    before, after = int(entry["before"]), int(entry["after"])
    norm = Renorm(str(entry["weight"]), offset, str(entry["attribute"]), eps, before, after)
    if norm.attribute not in EPSILONS or not 0 < after < before:
        raise ValueError(f"{norm.attribute} beside {norm.weight} is no norm's, or {before} channels become {after}")
    return norm
