"""Read a folder of transformers, as `from_pretrained` does or by the removal plan that extcon left in it.

A folder whose widths its configuration says opens with plain `from_pretrained`; extcon leaves a note of what was done
in `extcon.json`. Other widths stand in a removal plan in the header of `model.safetensors`: that folder opens with
`extcon_cli.load` alone. Nothing is fetched, and the folder's own code runs only if it is trusted. `write.py` writes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from extcon_cli.allocator import return_freed
from extcon_cli.checkpoint.header import read_header
from extcon_cli.checkpoint.huggingface.config import quiet, shapes_of, transformers, unfilled
from extcon_cli.checkpoint.huggingface.shards import read_on_demand, too_large
from extcon_cli.checkpoint.limits import check_memory
from extcon_cli.checkpoint.load import fill, replay
from extcon_cli.checkpoint.metadata import Metadata, from_header
from extcon_cli.checkpoint.precision import Precision, stored_precision
from extcon_cli.checkpoint.read import read
from extcon_cli.checkpoint.state import shown
from extcon_cli.errors import CheckpointError, first_line
from extcon_cli.events import Emit, Noted, ignore
from extcon_cli.json_text import parse_json

NOTE, CARD, WEIGHTS = "extcon.json", "README.md", "model.safetensors"
LARGEST_FILE = 64 * 2**20
"""Bytes of a file beside the weights that is read or copied: vocabularies take a few of them."""
AT_A_TIME = 6
"""Tensors, as large as the largest in float32, that are in memory where each is read when it is used."""
FORMATS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".index.json",
    ".tflite",
)  # fmt: skip
"""Weights, which are not copied: they are of the original."""


@dataclass(frozen=True)
class Folder:
    """What a folder held."""

    path: Path
    module: Any
    """A `PreTrainedModel` in eval mode, on the CPU, in the precision that `from_pretrained` gives it."""
    config: Any
    """As it was read, whatever becomes of the module's."""
    metadata: Metadata | None
    """What extcon noted; None in a folder from elsewhere."""
    precision: Precision
    sha256: str
    """Of the configuration and the weights."""

    @property
    def arch(self) -> str:
        """As in a recipe."""
        return f"transformers:{type(self.module).__name__}"


def read_folder(path: str | Path, *, trust_code: bool = False, sparing: bool = False, emit: Emit = ignore) -> Folder:
    """Open a folder as `from_pretrained` does, from this machine's files alone; every weight has to be there.

    Args:
        sparing: where its copies would not fit into memory, read each tensor when it is used; the module is in
            float32 or float64 then.

    Raises:
        CheckpointError: it is damaged, of an unknown class, quantised or an adapter, wants to run code of its own, or
            changes while it is read.
    """
    path = Path(path)
    content, found = _configuration(path), _stamps(path)
    kind = _kind(path, content, trust_code)
    _check_size(path, kind, sparing)
    header = read_header(path / WEIGHTS)
    if header is not None and header.plans:
        module, precision = _with_plans(path, kind, header)
        metadata: Metadata | None = header
    else:
        module, metadata = from_pretrained(path, kind, trust_code, emit), _note(path)
        precision = stored_precision(module.state_dict())
    if sparing and too_large(_computed(tuple(p.shape) for p in module.parameters())):
        emit(Noted(f"{path}: too large for several copies in memory: its tensors are read when they are used"))
        return_freed()
        doubles = any(parameter.dtype == torch.float64 for parameter in module.parameters())
        read_on_demand(module, path, torch.float64 if doubles else torch.float32)
    sha256 = _sha256(_read(path))
    if _stamps(path) != found:
        raise CheckpointError(f"{path} changed while it was read: start again when it is written")
    return Folder(path, module.eval(), copy.deepcopy(module.config), metadata, precision, sha256)


def _configuration(path: Path) -> dict[str, Any]:
    content = _json(path / "config.json")
    if (path / "adapter_config.json").exists():
        raise CheckpointError(f"{path} holds an adapter: merge it into its model and save that")
    if content.get("quantization_config"):
        raise CheckpointError(f"{path} is quantised: take the model in half or full precision")
    held = {file.suffix for file in files(path)}
    if ".gguf" in held and not held & {".safetensors", ".bin"}:
        raise CheckpointError(f"{path} holds weights in GGUF alone: take the model in safetensors")
    return content


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointError(f"{path} is too large for a configuration")
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {str(error)[:120]}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no configuration: {type(content).__name__} at its top")
    return content


def _kind(path: Path, content: Mapping[str, Any], trust_code: bool) -> Any:
    """The class that the configuration names."""
    named = content.get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    library = transformers()
    kind = getattr(library, name, None) if name.isidentifier() else None
    if isinstance(kind, type) and issubclass(kind, library.PreTrainedModel):
        return kind
    if not name:
        raise CheckpointError(f'{path / "config.json"} does not name the model\'s class: add "architectures": [...]')
    own = [text for text in dict(content.get("auto_map") or {}).values()
           if isinstance(text, str) and text.rpartition(".")[2] == name and "--" not in text]  # fmt: skip
    if not own:
        raise CheckpointError(f"{path}: transformers {library.__version__} has no {name[:60]}")
    if not trust_code:
        raise CheckpointError(f"{path}: {name[:60]} is code in the folder: pass --trust-code if you trust its source")
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    return get_class_from_dynamic_module(own[0], str(path), local_files_only=True)


def _computed(shapes: Iterable[tuple[int, ...]]) -> int:
    """Bytes of tensors in float32."""
    return sum(4 * prod(shape) for shape in shapes)


def _check_size(path: Path, kind: Any, sparing: bool) -> None:
    """CheckpointError where the model that the configuration describes would not fit into memory.

    `sparing`: a few tensors at a time have to.
    """
    try:
        config = kind.config_class.from_pretrained(str(path), local_files_only=True)
        shapes = shapes_of(kind, config)
    except Exception as error:  # the library's, on a configuration from anywhere
        raise CheckpointError(_opened_as(path, kind, error)) from error
    size = _computed(shapes.values())
    if sparing and too_large(size):
        size = AT_A_TIME * max(_computed([shape]) for shape in shapes.values())
    check_memory(size, str(path))


def _opened_as(path: Path, kind: Any, error: Exception) -> str:
    return f"{path} cannot be opened as {kind.__name__}: {first_line(error)}"


def from_pretrained(path: Path, kind: Any, trust_code: bool, emit: Emit = ignore, **more: Any) -> Any:
    """The model with all of its weights, from this machine's files alone."""
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            module, found = kind.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=trust_code, output_loading_info=True,
                **{"dtype": "auto", **more},
            )  # fmt: skip
    except Exception as error:  # the library's, on a folder from anywhere
        raise CheckpointError(_opened_as(path, kind, error)) from error
    if found["missing_keys"]:
        names = sorted(found["missing_keys"])
        raise CheckpointError(f"{path} lacks {len(names)} tensors of {kind.__name__} ({shown(names)})")
    if found["unexpected_keys"]:
        names = sorted(found["unexpected_keys"])
        emit(Noted(f"{path}: left out, no part of {kind.__name__}: {shown(names)}", warning=True))
    return module


def _with_plans(path: Path, kind: Any, header: Metadata) -> tuple[Any, Precision]:
    """The model of the configuration, shrunk as the plans say, with the weights as extcon wrote them."""
    checkpoint = read(path / WEIGHTS)
    try:
        config = kind.config_class.from_pretrained(str(path), local_files_only=True)
        module = unfilled(kind, config)
    except Exception as error:  # the library's, on a configuration from anywhere
        raise CheckpointError(_opened_as(path, kind, error)) from error
    for plan in header.plans:
        replay(module, plan, f"{path} does not fit {kind.__name__}")
    state = {checkpoint.prefix + name: tensor for name, tensor in checkpoint.state.items()}  # all may begin with model.
    fill(module, state, source=str(path), arch=kind.__name__)
    return module, stored_precision(state)


def _note(path: Path) -> Metadata | None:
    if not (path / NOTE).is_file():
        return None
    texts = {str(key): text for key, text in _json(path / NOTE).items() if isinstance(text, str)}
    return from_header(texts, str(path / NOTE))


def _read(path: Path) -> list[Path]:
    """The configuration and the weights."""
    return [path / "config.json", *(file for file in files(path) if file.name.endswith(FORMATS))]


def _stamps(path: Path) -> list[tuple[str, int, int, int]]:
    """What changes when a file of these is written."""
    stats = [(file.name, file.stat()) for file in _read(path)]
    return [(name, found.st_ino, found.st_size, found.st_mtime_ns) for name, found in stats]


def files(path: Path) -> list[Path]:
    """What stands in a folder, hidden files aside."""
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n".encode())
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    return digest.hexdigest()
