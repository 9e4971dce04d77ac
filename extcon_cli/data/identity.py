"""Are these still the same data? A digest of what a recipe's section `data` reads, to compare later. Reads no sample.

Of files the content counts, of folders each file's name, size and time: to read a large folder would take too long.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from extcon_cli.data.kinds import IN_TORCHVISION_S_FOLDERS
from extcon_cli.data.paths import split_files
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec

FILES = {"csv": (".csv",), "text": (".txt", ".jsonl")}
"""Datasets whose root may be a folder of which only some files are read."""


def identity(spec: DataSpec) -> str:
    """Hexadecimal digest of the files that the data come from; of bundled data, of their name.

    Raises:
        DataError: they cannot be read.
    """
    digest = hashlib.sha256(spec.dataset.encode())
    try:
        for path in _sources(spec):
            if path.is_file():
                with path.open("rb") as file:
                    while block := file.read(2**20):
                        digest.update(block)
            else:
                for line in sorted(_listed(path)):
                    digest.update(line)
    except OSError as error:
        raise DataError(f"{error.filename or spec.root}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _sources(spec: DataSpec) -> Iterator[Path]:
    """The files and folders that are read; of torchvision's sets only their own folder, others may lie beside it."""
    code, colon, _ = spec.dataset.rpartition(":")
    if colon and Path(code).expanduser().is_file():
        yield Path(code).expanduser()
    if spec.tokenizer is not None:
        yield Path(spec.tokenizer).expanduser()
    if spec.root is None:
        return
    if spec.dataset in FILES:  # what else lies in the folder, such as the output, is no data
        yield from split_files(spec.root, FILES[spec.dataset], spec.dataset).values()
        return
    root = Path(spec.root).expanduser()
    plain = spec.dataset.lower().replace("-", "").replace("_", "")
    own = [root / folder for folder, name in IN_TORCHVISION_S_FOLDERS.items() if name == plain]
    yield from own or [root]


def _listed(folder: Path) -> Iterator[bytes]:
    """Name of every folder, and name, size and time of every file, behind links too; into no folder twice."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        yield f"{os.path.relpath(place, folder)}\n".encode(errors="surrogateescape")
        state = os.stat(place)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        for name in files:
            path = os.path.join(place, name)
            try:
                found = os.stat(path)
            except FileNotFoundError:  # a link to nowhere: no data
                continue
            line = f"{os.path.relpath(path, folder)}\0{found.st_size}\0{found.st_mtime_ns}\n"
            yield line.encode(errors="surrogateescape")
