"""Exported files appear at their place whole, or not at all. Knows no format."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extcon_cli.errors import UsageError


@contextmanager
def hidden_folder(output: Path) -> Iterator[Path]:
    """A hidden folder beside the output, gone afterwards whatever happens. UsageError where it cannot be."""
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as name:
            yield Path(name)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror or error}; choose another --out") from error


def publish(folder: Path, place: Path) -> None:
    """Let the finished files appear at their place; the one that names the others last."""
    for file in sorted(folder.iterdir(), key=lambda path: path.suffix == ".xml"):
        os.replace(file, place / file.name)
