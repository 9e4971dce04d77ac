"""Who is to blame where several groups were removed together and something broke: halve the suspects and try again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from extcon_cli.channels.analysis.groups import ChannelGroup

Attempt = Callable[[Sequence[ChannelGroup]], dict[int, str]]
"""Removes these groups' channels from a copy: the `id` of each group that fails, with the reason."""


def culprits(groups: Sequence[ChannelGroup], attempt: Attempt) -> dict[int, str]:
    """The groups that cannot be removed, by their `id`, and why.

    An attempt that names some of its groups only is believed, and the rest is tried again without them.
    """
    found = attempt(groups) if groups else {}
    if len(found) < len(groups):
        rest = [group for group in groups if id(group) not in found]
        return found | (culprits(rest, attempt) if found else {})
    if len(groups) < 2:
        return found
    middle = len(groups) // 2
    return culprits(groups[:middle], attempt) | culprits(groups[middle:], attempt)


def first_line(error: Exception) -> str:
    """What an exception from a model's own code says, in one line."""
    return str(error).strip().partition("\n")[0][:160] or repr(error)
