"""The formats by name, and what each needs. Imports neither torch nor a runtime, so that a command can ask first."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

from extcon_cli.errors import UsageError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".th")
"""Endings of checkpoints that are one file."""
FORMATS = {
    "onnx": ("onnx", ".onnx"),
    "pt2": ("pt2", ".pt2"),
    "torchscript": ("torchscript", ".ts"),
    "openvino": ("openvino", ".xml"),
    "state-dict": ("state_dict", ".pth"),
}
"""The module of each format in this room, and the ending of its file."""


class Format(Protocol):
    """What a format's module says."""

    __file__: str
    NEEDS: tuple[str, ...]
    """Packages that write and run it, beside torch."""
    INSTALL: str
    """How to get them."""
    RUNTIME: str
    """The package that runs it."""


def named(name: str, *, asked: str = "") -> Format:
    """The format of this name. UsageError: it is none, or its packages are not installed.

    `asked`: what the user gave that needs it; --format by default.
    """
    asked = asked or f"--format {name}"
    if name not in FORMATS:
        raise UsageError(f"{asked}: should be one of {', '.join(FORMATS)}")
    found = cast(Format, import_module(f"extcon_cli.export.{FORMATS[name][0]}"))
    if missing := [package for package in found.NEEDS if find_spec(package) is None]:
        raise UsageError(f"{asked} needs {' and '.join(missing)}: {found.INSTALL}")
    return found


def written_as(path: Path) -> str | None:
    """The format of an exported file, by its ending; None: it is a checkpoint, or a folder with one."""
    suffix = path.suffix.lower()
    return next((name for name, (_, ending) in FORMATS.items() if suffix == ending and name != "state-dict"), None)


def beside(checkpoint: Path, name: str) -> Path:
    """Where a checkpoint is exported to by default: a folder's name is taken whole."""
    stem = checkpoint.stem if checkpoint.suffix.lower() in SUFFIXES else checkpoint.name
    return checkpoint.with_name(f"{stem}{FORMATS[name][1]}")


RUNTIMES: dict[str, str | None] = {"torch": None, "torch.compile": None, "onnxruntime": "onnx", "openvino": "openvino"}
"""What a model can run in, and the format that it reads there; None: the module itself."""


def check_runtime(runtime: str) -> None:
    """UsageError: there is no such runtime, or its packages are not installed."""
    if runtime not in RUNTIMES:
        raise UsageError(f"--runtime {runtime}: should be one of {', '.join(RUNTIMES)}")
    if (format := RUNTIMES[runtime]) is not None:
        named(format, asked=f"--runtime {runtime}")
