"""What a removal does, as an immutable value: which slices are cut, and which constants are folded into which bias.

A plan is data. It is stored as JSON with the shrunk checkpoint and replayed when that is loaded. Making one reads
the module and changes nothing; `apply.py` carries it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from extcon_cli.channels.axes import Consumer
from extcon_cli.channels.constants import read_constants
from extcon_cli.channels.groups import ChannelGroup, Channels
from extcon_cli.channels.trace import argument, called_by, named_tensors
from extcon_cli.errors import CheckpointError

COUNTS = ("num_heads", "n_heads", "n_head", "heads", "nhead", "num_attention_heads", "num_key_value_heads",
          "hidden_dim", "width")  # fmt: skip
WIDTHS = ("all_head_size", "attn_dim", "split_size", "inner_dim", "expand_chs", "in_channels")
"""Attributes that say how many heads an attention has, how wide a view is, and how wide the heads are together."""
BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # can be given a bias where they have none


@dataclass(frozen=True)
class Cut:
    """Slices of one dimension of a parameter or buffer that go. `removed` holds half-open ranges."""

    parameter: str
    dim: int
    size: int
    removed: tuple[tuple[int, int], ...]

    def kept(self) -> list[int]:
        """The positions that stay, in order."""
        gone = {position for start, stop in self.removed for position in range(start, stop)}
        return [position for position in range(self.size) if position not in gone]


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
class Resize:
    """An attribute by which the module's code lays channels out, such as `num_heads`."""

    module: str
    attribute: str
    before: int
    after: int


@dataclass(frozen=True)
class RemovalPlan:
    """Cuts, folds and sizes. Carried out together, they leave every output of the model as it was."""

    cuts: tuple[Cut, ...] = ()
    folds: tuple[Fold, ...] = ()
    sizes: tuple[Resize, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The plan as plain lists and dicts."""
        return {"format": 2, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RemovalPlan:
        """Read a plan back.

        Raises:
            CheckpointError: the data are not a plan.
        """
        try:
            if data["format"] not in (1, 2):  # 1 had no sizes, and every weight as (outputs, inputs)
                raise ValueError(f"format {data['format']!r} is not known to this version")
            cuts = tuple(_cut(entry) for entry in data["cuts"])
            folds = tuple(_fold(entry) for entry in data["folds"])
            sizes = tuple(_size(entry) for entry in data.get("sizes", ()))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"the removal plan in the checkpoint is damaged: {error!r}") from error
        return cls(cuts, folds, sizes)


@dataclass(frozen=True)
class Verdict:
    """What is true of each channel of a group: dead (a known constant for every reader), and removable."""

    group: ChannelGroup
    dead: np.ndarray[Any, np.dtype[np.bool_]]  # (channels,)
    removable: np.ndarray[Any, np.dtype[np.bool_]]  # (channels,)


def judge(module: nn.Module, channels: Channels) -> list[Verdict]:
    """Which channels emit constants only, and which of them can go exactly with the weights as they are.

    A constant other than zero can be folded where it is read by a map without zero padding that has a bias or can
    get one. At least one channel of every group stays.
    """
    return _judge(module, channels, read_constants(module, channels))


def _judge(module: nn.Module, channels: Channels, read: list[tuple[Consumer, Tensor]]) -> list[Verdict]:
    alive, stays, seen = (np.zeros(len(channels.roots), bool) for _ in range(3))
    for consumer, constants in read:
        roots = channels.roots[consumer.axis.atoms]
        values = constants.numpy()
        alive[roots[np.isnan(values)]] = True
        seen[roots] = True
        if not _foldable(module, channels, consumer):
            stays[roots[~np.isnan(values) & (values != 0)]] = True
    verdicts = []
    tensors = named_tensors(module)
    for group in channels.groups:
        members = channels.ids(group)
        dead = seen[members] & ~alive[members] & _finite(tensors, group)
        removable = dead & ~stays[members] & group.prunable
        if removable.all() and len(removable):
            removable[0] = False
        verdicts.append(Verdict(group, dead, removable))
    return verdicts


def plan(module: nn.Module, channels: Channels) -> RemovalPlan:
    """Remove every channel that can go exactly with the weights as they are now."""
    gone = np.zeros(len(channels.roots), bool)
    cut: dict[tuple[str, int], list[int]] = {}
    read = read_constants(module, channels)
    for verdict in _judge(module, channels, read):
        gone[channels.ids(verdict.group)[verdict.removable]] = True
        for part in verdict.group.slices:
            cut.setdefault((part.parameter, part.dim), []).extend(part.index[verdict.removable].ravel().tolist())
    sizes = {slot: len(atoms) for slot, atoms in channels.analysis.dims.items()}
    folds = []
    for consumer, constants in read:
        values = constants.numpy()
        moved = np.flatnonzero(gone[channels.roots[consumer.axis.atoms]] & (values != 0))
        if len(moved):
            bias = consumer.bias or _bias_name(consumer.weight)
            if consumer.bias is None:  # it is made with a row for each of the weight's, and cut like them
                written = 1 - consumer.dim
                sizes[bias, 0] = sizes[consumer.weight, written]
                cut[bias, 0] = cut.get((consumer.weight, written), [])
            folds.append(
                Fold(
                    consumer.weight,
                    bias,
                    consumer.groups,
                    tuple(moved.tolist()),
                    tuple(values[moved].tolist()),
                    consumer.dim,
                )
            )
    cuts = tuple(
        Cut(parameter, dim, sizes[parameter, dim], _ranges(removed))
        for (parameter, dim), removed in sorted(cut.items())
        if removed
    )
    return RemovalPlan(cuts, tuple(folds), _sizes(module, channels, gone))


def _sizes(module: nn.Module, channels: Channels, gone: np.ndarray[Any, Any]) -> tuple[Resize, ...]:
    """The attributes of modules by which views lay out what is removed: how many heads, or how wide together."""
    found: dict[tuple[str, str], Resize] = {}
    for split in channels.analysis.splits:
        roots = channels.roots[split.axis.atoms]
        positions, kept, path = len(roots), int((~gone[roots]).sum()), called_by(split.node)
        if kept == positions:
            continue
        held = vars(module.get_submodule(path))
        for name in (*COUNTS, *WIDTHS):
            value = held.get(name)
            counted = name in WIDTHS or value in (positions, len(np.unique(roots)))
            if type(value) is int and counted and value * kept % positions == 0:
                found.setdefault((path, name), Resize(path, name, value, value * kept // positions))
    return tuple(found.values())


def _foldable(module: nn.Module, channels: Channels, consumer: Consumer) -> bool:
    """Whether a constant read by this map can move into its bias."""
    if consumer.padded or _readers(channels, consumer.weight) > 1:
        return False
    if consumer.bias is not None:
        return _readers(channels, consumer.bias) == 1
    path, _, name = consumer.weight.rpartition(".")
    owner = module.get_submodule(path)
    return (
        name == "weight"
        and argument(consumer.node, "bias") is None
        and called_by(consumer.node) == path  # not functionally, with the weight of a module that has a bias
        and any(isinstance(owner, kind) and type(owner).forward is kind.forward for kind in BIASED)
    )


def _finite(tensors: Mapping[str, Tensor], group: ChannelGroup) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which channels hold numbers only: zero times NaN is NaN. (channels,)"""
    finite = np.ones(group.size, bool)
    for part in group.slices:
        tensor = tensors[part.parameter].detach()
        held = tensor.isfinite().movedim(part.dim, 0).reshape(tensor.shape[part.dim], -1).all(1).cpu().numpy()
        finite &= held[part.index].all(1)
    return finite


def _readers(channels: Channels, parameter: str) -> int:
    """How many operators read a parameter."""
    stored = channels.graph.stored
    return sum(len(node.users) for node in channels.graph.nodes if stored.get(node.name) == parameter)


def _bias_name(weight: str) -> str:
    return f"{weight.rpartition('.')[0]}.bias".removeprefix(".")


def _ranges(positions: Iterable[int]) -> tuple[tuple[int, int], ...]:
    ordered = np.unique(np.fromiter(positions, dtype=np.int64))
    breaks = np.flatnonzero(np.diff(ordered) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(ordered, breaks))


def _cut(entry: Mapping[str, Any]) -> Cut:
    removed = tuple((int(start), int(stop)) for start, stop in entry["removed"])
    cut = Cut(str(entry["parameter"]), int(entry["dim"]), int(entry["size"]), removed)
    edges = [edge for run in removed for edge in run]
    if cut.dim < 0 or edges != sorted(set(edges)) or (edges and (edges[0] < 0 or edges[-1] > cut.size)):
        raise ValueError(f"the slices of {cut.parameter} are out of order")
    return cut


def _fold(entry: Mapping[str, Any]) -> Fold:
    channels = tuple(int(position) for position in entry["channels"])
    values = tuple(float(value) for value in entry["constants"])
    if len(channels) != len(values) or not all(map(math.isfinite, values)):
        raise ValueError(f"the constants of {entry['weight']} do not match its channels")
    if int(entry["groups"]) < 1 or any(position < 0 for position in channels):
        raise ValueError(f"the channels of {entry['weight']} are out of range")
    dim = int(entry.get("dim", 1))
    if dim not in (0, 1) or (dim == 0 and int(entry["groups"]) > 1):
        raise ValueError(f"dimension {dim} of {entry['weight']} cannot be folded")
    return Fold(str(entry["weight"]), str(entry["bias"]), int(entry["groups"]), channels, values, dim)


def _size(entry: Mapping[str, Any]) -> Resize:
    size = Resize(str(entry["module"]), str(entry["attribute"]), int(entry["before"]), int(entry["after"]))
    if size.attribute not in (*COUNTS, *WIDTHS) or not 0 < size.after < size.before:
        raise ValueError(f"{size.attribute} of {size.module} cannot become {size.after}")
    return size
