"""What the user trusts: one value from the command line down to where code would run. Runs and reads nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trust:
    """May foreign code run? Nothing is trusted unless the user says so."""

    code: bool = False
    """Code that a checkpoint, or the recipe beside or inside it, names: `--trust-code`."""
    pickle: bool = False
    """Whatever unpickling a checkpoint runs: `--trust-pickle`."""
    recipe: bool = False
    """Code that the recipe names: the user gave this recipe."""

    @property
    def named_code(self) -> bool:
        """May code run that the recipe in use names, wherever that recipe comes from?"""
        return self.code or self.recipe


UNTRUSTED = Trust()
