"""The header of a safetensors file, without torch: what a command needs before it does any work."""

from __future__ import annotations

from pathlib import Path

from extcon_cli.checkpoint.metadata import Metadata, from_header
from extcon_cli.json_text import parse_json

LARGEST = 100 * 2**20  # bytes, the limit of the safetensors format itself


def read_header(path: Path) -> Metadata | None:
    """What extcon wrote about a checkpoint; None for any other file, readable or not.

    Raises:
        CheckpointError: extcon's own metadata are damaged.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= LARGEST:
                return None
            header = parse_json(file.read(length)).get("__metadata__")
    except (OSError, ValueError, AttributeError):
        return None
    if not isinstance(header, dict):
        return None
    return from_header({str(key): text for key, text in header.items() if isinstance(text, str)}, str(path))
