"""Who is to blame where several groups were removed together and something broke.

What broke says where, and which groups' channels meet there: they are left out, and the rest is tried again. If that
does not help, those are left out too whose channels are in the same module. Where nothing is said, or it does not help
either, the suspects are halved. Nothing is sound that was not tried: the last attempt is on all that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from extcon_cli.channels.analysis.groups import ChannelGroup


@dataclass(frozen=True)
class Failure:
    """Something that broke: why, where, and the groups, by their `id`, that may be to blame: the nearest first."""

    reason: str
    place: Hashable = None  # the same in two attempts where it is the same place; None: nobody knows
    suspects: tuple[frozenset[int], ...] = ()


Attempt = Callable[[Sequence[ChannelGroup]], Sequence[Failure]]
"""Removes these groups' channels from a copy, and says what broke."""


def culprits(groups: Sequence[ChannelGroup], attempt: Attempt) -> dict[int, str]:
    """The groups that cannot be removed, by their `id`, and why; all others have been removed together."""
    reasons: dict[int, str] = {}
    blamed: dict[Hashable, list[frozenset[int]]] = {}  # at each place, those that were left out one after the other
    while failures := _tried(left := _without(groups, reasons), attempt):
        there = {id(group) for group in left}
        nearest = [(failure, _nearest(failure, there, blamed)) for failure in failures]
        for failure, suspects in nearest:
            if not suspects:  # it is no better without those that were left out
                for key in frozenset().union(*blamed.get(failure.place, ())):
                    reasons.pop(key, None)
                blamed[failure.place] = [frozenset()] * len(failure.suspects)
        named = [(failure, suspects) for failure, suspects in nearest if suspects]
        if not named:
            return reasons | _among(_without(groups, reasons), failures[0].reason, attempt)
        alone = [(failure, suspects) for failure, suspects in named if len(suspects) == 1]
        for failure, suspects in alone or named[:1]:
            found = suspects if alone else _one_of(failure, suspects, left, attempt)
            blamed.setdefault(failure.place, []).append(found)
            reasons |= dict.fromkeys(found, failure.reason)
    first = frozenset().union(*(found[0] for found in blamed.values() if len(found) > 1))
    if first and not attempt(_without(groups, reasons.keys() - first)):  # it was the others alone
        return {key: reason for key, reason in reasons.items() if key not in first}
    return reasons


def _nearest(failure: Failure, there: set[int], blamed: Mapping[Hashable, Sequence[frozenset[int]]]) -> frozenset[int]:
    """The nearest suspects that are still there, if more of them can be left out."""
    if failure.place is None or len(blamed.get(failure.place, ())) >= len(failure.suspects):  # all were tried
        return frozenset()
    return next((found for suspects in failure.suspects if (found := suspects & there)), frozenset())


def _without(groups: Sequence[ChannelGroup], out: Collection[int]) -> list[ChannelGroup]:
    return [group for group in groups if id(group) not in out]


def _tried(groups: Sequence[ChannelGroup], attempt: Attempt) -> Sequence[Failure]:
    return attempt(groups) if groups else ()


def _one_of(
    failure: Failure, suspects: frozenset[int], groups: Sequence[ChannelGroup], attempt: Attempt
) -> frozenset[int]:
    """The one of several suspects without which it does not happen, all of them if there is none."""
    for suspect in (id(group) for group in groups if id(group) in suspects):
        rest = _tried(_without(groups, {suspect}), attempt)
        if failure.place not in {other.place for other in rest}:
            return frozenset({suspect})
    return suspects


def _among(groups: Sequence[ChannelGroup], reason: str, attempt: Attempt) -> dict[int, str]:
    """Of groups that fail together, those that fail in halves of halves, or all if the others do so together."""
    found = _halved(groups, reason, attempt)
    rest = _without(groups, found)
    failures = _tried(rest, attempt)
    return found | ({id(group): failures[0].reason for group in rest} if failures else {})


def _halved(groups: Sequence[ChannelGroup], reason: str, attempt: Attempt) -> dict[int, str]:
    """Of groups that fail together, those that fail in halves of halves."""
    if len(groups) < 2:
        return {id(group): reason for group in groups}
    middle = len(groups) // 2
    found: dict[int, str] = {}
    for half in (groups[:middle], groups[middle:]):
        if failures := _tried(half, attempt):
            found |= _halved(half, failures[0].reason, attempt)
    return found
