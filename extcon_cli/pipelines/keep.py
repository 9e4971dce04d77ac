"""Do the name patterns of groups that are to stay mean any group of the model? A typo would prune what it means."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from extcon_cli.errors import RecipeError


def check_keep(patterns: Sequence[str], groups: Sequence[str]) -> None:
    """RecipeError where a pattern of `prune.decide.keep` matches no group's name; all of them in one message."""
    problems = []
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in groups):
            near = get_close_matches(pattern, groups, n=3, cutoff=0.3) or list(groups[:3])
            problems.append(f"prune.decide.keep: {pattern!r} matches no group; the nearest are {', '.join(near)}")
    if problems:
        raise RecipeError("\n".join(problems))
