"""The checkpoint file in a folder. Reads no file and needs no torch, so that a command can ask before all work."""

from __future__ import annotations

from pathlib import Path

from extcon_cli.errors import CheckpointError

NAMES = ("model.safetensors", "pytorch_model.bin")
"""What other tools call the one checkpoint of a folder."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".th")


def checkpoint_file(path: str | Path) -> Path:
    """The path itself, or of a folder its only checkpoint. CheckpointError: the folder holds none, or several."""
    path = Path(path)
    try:
        if not path.is_dir():
            return path
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    except (OSError, ValueError):
        return path  # the reader says what is wrong with it
    named = [file for file in inside if file.name in NAMES]
    if len(inside) == 1 or named:
        return (named or inside)[0]
    names = ", ".join(file.name for file in inside[:3]) + (" ..." if len(inside) > 3 else "")
    problem = f"several checkpoints ({names}): give the one you mean" if inside else "no checkpoint file"
    raise CheckpointError(f"{path} is a folder with {problem}.")
