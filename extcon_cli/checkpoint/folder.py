"""The checkpoint file in a folder. Reads no file and needs no torch, so that a command can ask before all work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from extcon_cli.errors import CheckpointError, UsageError
from extcon_cli.json_text import parse_json

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
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(f"{path} holds an adapter: merge it into its model and save that")
    if any("-of-0" in file.name for file in inside) or (path / "model.safetensors.index.json").is_file():
        lacks = "names no model_type that can be read" if (path / "config.json").is_file() else "is not there"
        raise CheckpointError(
            f"{path} holds shards of Hugging Face's transformers, and {path / 'config.json'} {lacks}."
        )
    named = [file for file in inside if file.name in NAMES]
    if len(inside) == 1 or named:
        return (named or inside)[0]
    names = ", ".join(file.name for file in inside[:3]) + (" ..." if len(inside) > 3 else "")
    problem = f"several checkpoints ({names}): give the one you mean" if inside else "no checkpoint file"
    raise CheckpointError(f"{path} is a folder with {problem}.")


TASKS = {
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "classification",
    "ForImageClassification": "classification",
}
"""What a class of transformers is for, by the end of its name."""
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


def is_transformers(path: str | Path) -> bool:
    """Is this a folder of Hugging Face's transformers: with a config.json that names a kind of model?"""
    return "model_type" in _configuration(path)


def task_of(path: str | Path) -> str | None:
    """The task that a folder's model is for, by the name of its class; None: the name does not tell."""
    named = _configuration(path).get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    return next((task for end, task in TASKS.items() if name.endswith(end)), None)


def has_tokenizer(path: str | Path) -> bool:
    """Does a tokenizer lie in the folder?"""
    return any(Path(path, name).is_file() for name in TOKENIZERS)


@dataclass(frozen=True)
class Image:
    """What a folder's model takes: images of this shape, normalised so."""

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    """Empty: nothing says it."""
    std: tuple[float, ...]


def image_of(path: str | Path) -> Image | None:
    """The images that a folder's model takes, by its configuration and its preprocessor; None: it takes none."""
    content, prepared = _configuration(path), _configuration(path, "preprocessor_config.json")
    size, channels = content.get("image_size"), content.get("num_channels", 3)
    if size is None and isinstance(wanted := prepared.get("size"), dict):  # ConvNeXt does not say it in its own
        size = [wanted.get("height", wanted.get("shortest_edge")), wanted.get("width", wanted.get("shortest_edge"))]
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in (*sides, channels)):
        return None
    return Image((int(str(channels)), *sides), *(_floats(prepared.get(f"image_{name}")) for name in ("mean", "std")))


def _floats(value: object) -> tuple[float, ...]:
    """Numbers of a list; nothing where it holds something else."""
    held = value if isinstance(value, list) else []
    return tuple(map(float, held)) if all(type(one) in (int, float) for one in held) else ()


def _configuration(path: str | Path, name: str = "config.json") -> Mapping[str, object]:
    """What one of a folder's configurations says; nothing where it cannot be read."""
    try:
        content = parse_json((Path(path) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_folder(path: Path, *, force: bool, like: Path) -> None:
    """UsageError where a folder like `like` could not be written; leaves nothing behind."""
    if path.suffix == ".safetensors":
        raise UsageError(f"{path}: {like} is a folder, and so is the output; choose another --out")
    if path.exists():
        if path.resolve() == like.resolve():
            raise UsageError(f"{path} is the input; choose another --out")
        if not force:
            raise UsageError(f"{path} exists already; overwrite it with --force or choose another --out")
        if not is_transformers(path):
            raise UsageError(f"{path} is no folder of transformers and is not overwritten; choose another --out")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; make it or choose another --out")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written: permission denied; choose another --out")
