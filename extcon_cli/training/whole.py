"""Files that are written whole or not at all, and what killed processes have left of writing them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(
    path: Path, write: Callable[[BinaryIO], object], *, announce: Callable[[str], object] | None = None
) -> None:
    """Write a file under a temporary name, sync and rename it: a reader sees the old one or the new one, whole.

    `announce` is told the SHA-256 of the file before it gets its name. OSError where it cannot be written.
    """
    name = temporary(path)
    try:
        with name.open("wb") as file:
            _write(write, file)
            file.flush()
            os.fsync(file.fileno())
        if announce is not None:
            announce(sha256(name))
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sha256(path: Path, begin: int = 0) -> str:
    """Of a file's content from this byte on, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(begin)
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the names and contents of its files."""
    if path.is_file():
        return sha256(path)
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            found.update(f"{file.relative_to(path)} {sha256(file)}\n".encode())
    return found.hexdigest()


def _write(write: Callable[[BinaryIO], object], file: BinaryIO) -> None:
    """torch.save tells of a full disk, or of Ctrl-C, by an error of its own: tell what it was."""
    try:
        write(file)
    except Exception as error:
        hidden: BaseException | None = error
        while hidden is not None and not isinstance(hidden, OSError | KeyboardInterrupt):
            hidden = hidden.__context__
        raise hidden or error from None


def remove_temporaries(path: Path) -> None:
    """Delete what killed processes have left of writing `path`: temporary names tell the process."""
    for left in path.parent.glob(f".{_literal(path.name)}.*.tmp"):
        process = left.name.split(".")[-2]
        if process.isdigit() and not _alive(int(process)):
            left.unlink(missing_ok=True)


def temporary(path: Path) -> Path:
    """The name under which this process writes a file before it gets its own."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _literal(name: str) -> str:
    """For glob, which takes brackets for itself."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in name)


def _alive(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
