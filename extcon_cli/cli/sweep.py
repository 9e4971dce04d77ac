"""`extcon prune` with several targets, as `extcon prune --ratio 0.3,0.5,0.7`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extcon_cli.pipelines.sweep import Member
    from extcon_cli.recipe.load import Resolved
    from extcon_cli.recipe.schema import Recipe


def members(
    asked: Sequence[str], every: Sequence[Resolved], complete: Recipe, outputs: Sequence[Path], forced: Sequence[bool]
) -> list[Member]:
    """One for each target: `complete`, which is the recipe of the first with all filled in, with the target of each."""
    from extcon_cli.pipelines.sweep import Member

    recipes = [
        complete.model_copy(
            update={
                "prune": complete.prune.model_copy(
                    update={"ratio": found.recipe.prune.ratio, "target": found.recipe.prune.target}
                )
            }
        )
        for found in every
    ]
    return [Member(*one) for one in zip(asked, recipes, outputs, forced, strict=True)]
