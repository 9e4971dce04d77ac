"""Is a file a checkpoint of Ultralytics? Reads the names in its pickle, runs nothing, and needs no torch."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

NAME = b"ultralytics.nn.tasks"
"""Where its models' classes are defined."""
LARGEST_PICKLE = 2**26
"""Bytes of structure beside the tensors; more is nobody's model."""


def is_ultralytics(path: str | Path) -> bool:
    """Does the file hold a pickled model of Ultralytics? A damaged file does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            return any(
                archive.getinfo(name).file_size <= LARGEST_PICKLE and NAME in archive.read(name) for name in names
            )
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, NotImplementedError):
        return False
