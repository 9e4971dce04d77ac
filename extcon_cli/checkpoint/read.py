"""Read a checkpoint into named tensors on the CPU. Nothing in the file is executed unless the user trusts it.

It builds no module and does not ask what the tensors mean: that is for architectures.py and load.py.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import warnings
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from extcon_cli.checkpoint.contents import kind
from extcon_cli.checkpoint.folder import checkpoint_file
from extcon_cli.checkpoint.limits import check_pickle
from extcon_cli.checkpoint.metadata import Metadata, from_header
from extcon_cli.checkpoint.said import said
from extcon_cli.checkpoint.state import Versions, find_state
from extcon_cli.checkpoint.ultralytics.library import switch_off
from extcon_cli.checkpoint.user_code import importable
from extcon_cli.errors import CheckpointError

LARGE = 2**29
"""Bytes of a file above which its tensors stay in it, mapped into memory."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file held."""

    path: Path
    state: dict[str, Tensor]
    """Tensors by name, without the prefixes that wrappers add, on the CPU."""
    metadata: Metadata | None
    """What extcon wrote beside them; None in a file from elsewhere."""
    sha256: str
    """Of the file, hexadecimal."""
    module: nn.Module | None = None
    """The pickled module, with `trust_pickle` only."""
    prefix: str = ""
    """What was taken off all names."""
    versions: Versions = field(default_factory=dict)
    """Of the submodules, as torch.save kept them; empty where the file does not say."""
    said: tuple[str, ...] = ()
    """Texts in and around the file that may name its architecture."""


def read(path: str | Path, *, trust_pickle: bool = False) -> Checkpoint:
    """Read `.safetensors`, or what torch.save wrote: a state dict, bare or among other things; or a folder's only one.

    With `trust_pickle` code in the file may run, and a whole pickled module is accepted.
    CheckpointError names the file, what is wrong with it and what to do.
    """
    path = checkpoint_file(path)
    how = kind(path)
    metadata = None
    if how == "safetensors":
        content, metadata = _read_safetensors(path)
    else:
        if not trust_pickle:
            check_pickle(path, zipped=how == "zip")
        content = _read_torch(path, trust_pickle)
    found = find_state(content, str(path), file_size=path.stat().st_size)
    return Checkpoint(
        path, found.state, metadata, _sha256(path), found.module, found.prefix, found.versions, said(content, path)
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Metadata | None]:
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{path} is a cut off or damaged safetensors file ({_line(error)}). Copy or download it again."
        ) from None
    return tensors, from_header(header, str(path))


def _read_torch(path: Path, trust_pickle: bool) -> Any:
    try:
        # A Namespace of settings stands beside the tensors in many training scripts' files; it runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")  # advice to torch.load's callers, not to our user
            if trust_pickle:
                stack.enter_context(importable(Path.cwd()))  # its classes are found as by a script
                stack.enter_context(redirect_stdout(sys.stderr))  # what its libraries print is no result of ours
                switch_off()
            in_file = not trust_pickle and kind(path) == "zip" and path.stat().st_size > LARGE
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle, mmap=in_file)
    except Exception as error:  # whatever a hostile pickle makes of torch's reader, it is this file's fault
        message = str(error)
        needed = re.search(r"GLOBAL ([\w.]+)", message)
        if not trust_pickle and needed:
            raise CheckpointError(
                f"{path} holds Python objects ({needed[1][:80]}), not only tensors; opening it may run any code "
                "in it. Save the state_dict() alone, or, only if you trust its source, pass --trust-pickle."
            ) from None
        if trust_pickle and isinstance(error, ImportError | AttributeError):
            hint = ""
            if "__main__" in message:
                hint = " It was defined in the script that saved it: save its state_dict() there instead"
            raise CheckpointError(
                f"{path} holds a pickled object whose class cannot be imported here: {_line(error)}.{hint}"
            ) from None
        raise CheckpointError(f"{path} is cut off or damaged ({_line(error)}). Copy or download it again.") from None


def _line(error: Exception) -> str:
    """The first line of an error that a library raised, short."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip() or type(error).__name__
    text = text.splitlines()[0]
    return "".join(c if c.isprintable() else "?" for c in text[:160]).rstrip(".: ")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
