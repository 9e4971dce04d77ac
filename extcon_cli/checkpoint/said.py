"""What a file says of its own architecture beside its tensors: training settings in it, a config beside it, its name.

Of architectures whose tensors agree in names and shapes and which compute different things, this tells which is meant.
Nothing here is proof: it chooses among architectures that fit, and never makes one fit.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from extcon_cli.json_text import parse_json

KEYS = ("arch", "architecture", "model", "model_name", "arch_name")
"""Where training scripts and timm's config.json keep the name."""
SETTINGS = ("args", "config", "cfg", "hparams", "hyper_parameters", "opt")
"""Where training scripts keep their settings."""
LARGEST_CONFIG = 2**20  # bytes


def said(content: Any, path: Path) -> tuple[str, ...]:
    """Texts that may hold the name of the architecture, the surest first."""
    texts = [*_settings(content), *_config(path.parent), path.stem]
    return tuple(dict.fromkeys(texts))


def told(names: Sequence[str], texts: Sequence[str]) -> str | None:
    """The one of the names that the first text with any of them says; None where none says one.

    A name counts where it stands by itself: `resnetaa50-a1h.pth` says resnetaa50, and not resnet50.
    """
    for text in texts:
        if found := [name for name in names if _stands(name, text.lower())]:
            return max(found, key=len)
    return None


def _stands(name: str, text: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(name.lower())}(?![a-z0-9])", text) is not None


def _settings(content: Any) -> Iterator[str]:
    if not isinstance(content, Mapping):
        return
    for settings in (content, *(content.get(key) for key in SETTINGS)):
        held = vars(settings) if isinstance(settings, argparse.Namespace) else settings
        if isinstance(held, Mapping):
            yield from (held[key] for key in KEYS if isinstance(held.get(key), str))


def _config(folder: Path) -> Iterator[str]:
    """Of timm's config.json, in the folder of the checkpoint."""
    path = folder / "config.json"
    try:
        if path.stat().st_size <= LARGEST_CONFIG:
            yield from _settings(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return
