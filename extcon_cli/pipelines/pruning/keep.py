"""Do the name patterns of groups in `prune.decide` mean any group of the model? A typo would prune what it means."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.schema import DecideSpec


def check_patterns(spec: DecideSpec, groups: Sequence[str]) -> None:
    """RecipeError where a pattern matches no group's name; all of them in one message."""
    patterns = [("keep", pattern) for pattern in spec.keep]
    patterns += [(f"layers.{number}.match", layer.match) for number, layer in enumerate(spec.layers)]
    problems = []
    for key, pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in groups):
            near = get_close_matches(pattern, groups, n=3, cutoff=0.3) or list(groups[:3])
            problems.append(f"prune.decide.{key}: {pattern!r} matches no group; the nearest are {', '.join(near)}")
    if problems:
        raise RecipeError("\n".join(problems))
