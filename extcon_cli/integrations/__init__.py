"""extcon in other people's trainers: callbacks that score, take to zero and remove while the trainer trains on.

    CatalystCallback    for the Trainer of transformers

Importing this needs neither torch nor the trainers; using a callback needs its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extcon_cli.integrations.trainer import CatalystCallback

__all__ = ["CatalystCallback"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a callback when it is first asked for."""
        if name not in __all__:
            raise AttributeError(f"module 'extcon_cli.integrations' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module("extcon_cli.integrations.trainer"), name)
