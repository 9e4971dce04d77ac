"""Which tensors of a state dict are a module's: behind which prefix they stand, and what does not belong to it.

People save networks inside other modules (`net.conv1.weight`), beside loss weights and moving averages. Nothing is
dropped that could be a part of the network: what a name does not give away as foreign has to fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from extcon_cli.checkpoint.state import COUNTER

LOSSES = {"loss", "losses", "criterion", "criterions", "metric", "metrics", "objective", "optimizer", "optim"}
AVERAGES = {"ema", "swa", "teacher", "averaged", "average", "shadow"}
COUNTERS = {"averaged", "updates", "decay", "step", "steps", "epoch", "iteration"}
MOST_PREFIXES = 64  # tried; a hostile file could hold any number


@dataclass(frozen=True)
class Fit:
    """How a state dict fits a module."""

    prefix: str
    """What stands before the module's own names."""
    state: dict[str, Tensor]
    """The tensors behind the prefix, by the module's names."""
    missing: list[str]
    unexpected: list[str]
    """Tensors that could be a part of a network, but not of this one."""
    reshaped: list[str]
    """Of another shape or kind than the module's."""
    foreign: list[str]
    """By their full names: no part of the network."""

    @property
    def complete(self) -> bool:
        """The module's tensors are all there, and all else is foreign."""
        return not (self.missing or self.unexpected or self.reshaped)


def fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[Fit]:
    """The ways in which the state fits a module with these tensors, complete ones first; one at the least.

    Counters of batch norm may be missing, and tied tensors (the same object in `own`) may be stored once.
    """
    fits = [_behind(prefix, own, state) for prefix in _prefixes(own, state)]
    return sorted(fits, key=lambda f: (len(f.missing) + len(f.unexpected) + len(f.reshaped), averaged(f.prefix)))


def peeled(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state without what is foreign by its name, then with each prefix off that all names have in common."""
    kept = {name: tensor for name, tensor in state.items() if not _foreign(name, tensor)}
    kept = {name: tensor for name, tensor in kept.items() if not averaged(name)} or kept
    yield kept
    while kept:
        prefix = next(iter(kept)).partition(".")[0] + "."
        if not all(name.startswith(prefix) for name in kept):
            return
        kept = {name[len(prefix) :]: tensor for name, tensor in kept.items()}
        yield kept


def alike(stored: Tensor, own: Tensor) -> bool:
    """May the one be copied into the other?"""
    return stored.shape == own.shape and stored.is_floating_point() == own.is_floating_point()


def _prefixes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Where the first of the module's names that the state knows stands in it; none (`""`) always."""
    for anchor in own:
        found = [name.removesuffix(anchor) for name in state if name == anchor or name.endswith(f".{anchor}")]
        if found:
            return list(dict.fromkeys(["", *found]))[:MOST_PREFIXES]
    return [""]


def _behind(prefix: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Fit:
    inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    outside = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    places = {id(own[name]) for name in inside if name in own}
    more = {name: tensor for name, tensor in inside.items() if name not in own}
    foreign = [prefix + name for name, tensor in more.items() if _foreign(name, tensor) or _copy(name, own)]
    unexpected = [name for name in more if prefix + name not in foreign]
    known = {name for name, tensor in outside.items() if _foreign(name, tensor) or _copy(name, own)}
    others = outside.keys() - known
    if _numbers(state, others) > sum(tensor.numel() for tensor in inside.values()):
        unexpected += [name for name in outside if name in others]  # more than the network itself: not its wrapping
    return Fit(
        prefix,
        {name: tensor for name, tensor in inside.items() if name in own},
        missing=[name for name in own if name not in inside and id(own[name]) not in places and COUNTER not in name],
        unexpected=unexpected,
        reshaped=[name for name, tensor in inside.items() if name in own and not alike(tensor, own[name])],
        foreign=[*foreign, *(name for name in outside if name not in unexpected)],
    )


def _foreign(name: str, tensor: Tensor) -> bool:
    """A loss, a metric or an optimizer's tensor, or a counter that is no batch norm's."""
    first, _, _ = name.partition(".")
    if _words(first) & LOSSES:
        return True
    return tensor.numel() == 1 and COUNTER not in name and bool(_words(name.rpartition(".")[2]) & COUNTERS)


def averaged(name: str) -> bool:
    """Does this begin as a moving average of a network does?"""
    return bool(_words(name.partition(".")[0]) & AVERAGES)


def _copy(name: str, own: Mapping[str, Tensor]) -> bool:
    """Is this a moving average of one of the module's tensors, such as `ema_model.conv1.weight`?"""
    if not averaged(name):
        return False
    rest = name.partition(".")[2].replace(".", "")
    return any(rest.endswith(mine.replace(".", "")) for mine in own)


def _words(name: str) -> set[str]:
    return set(re.split(r"[_\W\d]+", name.lower()))


def _numbers(state: Mapping[str, Tensor], names: set[str]) -> int:
    return sum(state[name].numel() for name in names)
