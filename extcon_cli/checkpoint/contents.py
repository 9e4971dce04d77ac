"""What a file is, told by its first bytes, so that a wrong one is refused by name before any reader sees it."""

from __future__ import annotations

import os
import re
import zipfile
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from extcon_cli.errors import CheckpointError

Kind = Literal["safetensors", "zip", "pickle"]

_LARGEST_HEADER = 100_000_000  # safetensors' own limit
_INFLATION = 10  # PyTorch stores its records uncompressed; more than this is a bomb
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch.save's older format begins with
_SIGNATURES = {
    b"version https://git-lfs": "a Git-LFS pointer, not the file itself: fetch it with `git lfs pull`",
    b"\x89PNG": "a PNG image, not a checkpoint",
    b"\xff\xd8\xff": "a JPEG image, not a checkpoint",
    b"GIF8": "a GIF image, not a checkpoint",
    b"%PDF": "a PDF document, not a checkpoint",
    b"\x1f\x8b": "gzip-compressed: unpack it first",
    b"\x89HDF": "an HDF5 (Keras) file, not a PyTorch checkpoint",
    b"GGUF": "a GGUF file, not a PyTorch checkpoint",
}


def kind(path: Path) -> Kind:
    """How to read the file. CheckpointError if it is missing, no file, empty, cut off or not a checkpoint."""
    size = _size(path)
    with path.open("rb") as file:
        head = file.read(1024)
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature):
            raise CheckpointError(f"{path} is {what}.")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{path} is an HTML page, not a checkpoint: the download got a web page instead.")
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path, size)
        return "zip"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= _LARGEST_HEADER:
        if 8 + length > size:
            raise CheckpointError(_cut_off(path))
        return "safetensors"
    if head.startswith(b"\x80") and _TORCH_MAGIC in head[:32]:
        return "pickle"
    if head.startswith(b"\x80") and head[1:2] <= b"\x05":
        raise CheckpointError(f"{path} is a pickle, but not one that torch.save wrote.")
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        raise CheckpointError(f"{path} is a text file, not a checkpoint.")
    raise CheckpointError(f"{path} is not a checkpoint: neither safetensors nor written by torch.save.")


def _size(path: Path) -> int:
    try:
        size = os.stat(path).st_size
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder, not a file.")
        if not path.is_file():
            raise CheckpointError(f"{path} is not a regular file.")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        if re.match(r"\w{2,}:/", str(path)):
            raise CheckpointError(f"{path}: is an address, and extcon downloads nothing: give a file.") from None
        try:
            near = get_close_matches(path.name, os.listdir(path.parent), n=1)
        except OSError:
            near = []
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise CheckpointError(f"{path}: no such file.{hint}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{str(path)!r} cannot be read: {reason}.") from None
    if not size:
        raise CheckpointError(f"{path} is empty.")
    return size


def _check_zip(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CheckpointError(_cut_off(path)) from None
    names = {record.filename.partition("/")[2] for record in records}
    if "constants.pkl" in names or "data.pkl" not in names:
        what = "a TorchScript archive" if "constants.pkl" in names else "a zip archive, but not by torch.save"
        raise CheckpointError(f"{path} is {what}: save the module's state_dict() instead.")
    if sum(record.file_size for record in records) > _INFLATION * size:
        raise CheckpointError(f"{path} unpacks to more than {_INFLATION} times its size; not written by PyTorch.")


def _cut_off(path: Path) -> str:
    return f"{path} is cut off or damaged: its end is missing. Copy or download it again."
