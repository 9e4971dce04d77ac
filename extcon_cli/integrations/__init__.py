"""extcon in other people's trainers: callbacks that prune, or bypass a plateau, while the trainer trains on.

    CatalystCallback, BypassCallback            for the Trainer of transformers
    LightningCatalyst, LightningBypass          for the Trainer of Lightning
    UltralyticsCatalyst, UltralyticsBypass      for the trainers of Ultralytics

Importing this needs neither torch nor the trainers; using a callback needs its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extcon_cli.integrations.lightning import LightningBypass, LightningCatalyst
    from extcon_cli.integrations.trainer import BypassCallback, CatalystCallback
    from extcon_cli.integrations.ultralytics import UltralyticsBypass, UltralyticsCatalyst

__all__ = [
    "BypassCallback",
    "CatalystCallback",
    "LightningBypass",
    "LightningCatalyst",
    "UltralyticsBypass",
    "UltralyticsCatalyst",
]

_HOMES = {"Lightning": "lightning", "Ultralytics": "ultralytics"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a callback when it is first asked for."""
        if name not in __all__:
            raise AttributeError(f"module 'extcon_cli.integrations' has no attribute {name!r}")
        from importlib import import_module

        home = next((home for begin, home in _HOMES.items() if name.startswith(begin)), "trainer")
        return getattr(import_module(f"extcon_cli.integrations.{home}"), name)
