"""extcon makes a trained PyTorch model better: the public API on one screen. Importing it does not import torch."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "extcon_cli.checkpoint.load",
    "Bypass": "extcon_cli.bypass.attach",
    "Catalyst": "extcon_cli.catalyst.attach",
}

__all__ = ["Bypass", "Catalyst", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562), so that `extcon --help` stays instant."""
    from importlib import import_module

    if name not in _PUBLIC:
        raise AttributeError(f"module 'extcon_cli' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
