"""Write a checkpoint: one safetensors file, the same bytes for the same module, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from torch import Tensor, nn

from extcon_cli.checkpoint.encode import encoded
from extcon_cli.checkpoint.metadata import Metadata, to_header
from extcon_cli.checkpoint.precision import Precision, lossless
from extcon_cli.errors import UsageError

__all__ = ["Metadata", "check_writable", "write"]


def write(
    path: str | Path,
    module: nn.Module,
    metadata: Metadata,
    *,
    force: bool = False,
    precision: Precision | None = None,
    announce: Callable[[str], object] | None = None,
) -> None:
    """Store the module's parameters and buffers with their metadata; tied tensors once.

    What `precision` names is stored in half precision, where that loses nothing.

    Written under a temporary name beside it, synced and renamed, so that a reader sees the old file or the new one.
    `announce` is told the SHA-256 of the file before it gets its name.
    UsageError as `check_writable`, or if the disk is full.
    """
    path = Path(path)
    check_writable(path, force)
    state, digest = _unique(module, precision or {}), sha256()
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            for part in encoded(state, {"format": "pt", **to_header(metadata)}):
                file.write(part)
                digest.update(part)
            file.flush()
            os.fsync(file.fileno())
        if announce is not None:
            announce(digest.hexdigest())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | Path, force: bool) -> None:
    """Refuse a place where `write` could not put its file. Called before long work; leaves nothing behind.

    UsageError: the file exists and `force` is off, it is a folder, or its folder is missing or not writable.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: the output is a safetensors file; give --out a name that ends in .safetensors")
    try:
        check_place(path, force)
        temporary = _temporary(path)
        temporary.open("xb").close()
        temporary.unlink()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path} cannot be written: {reason}; choose another --out") from error


def check_place(path: Path, force: bool) -> None:
    """UsageError where no file can be put: in the place of a folder, of a file to be kept, or where no folder is."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; choose another --out")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already; overwrite it with --force or choose another --out")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; make it or choose another --out")


def _unique(module: nn.Module, precision: Precision) -> dict[str, Tensor]:
    """The state dict with each tied tensor under its first name only."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        state[name] = lossless(name, tensor.detach().cpu().contiguous(), precision)
    return state


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
