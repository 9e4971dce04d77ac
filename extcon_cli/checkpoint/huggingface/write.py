"""Write a module as a folder of transformers: beside, compared with what `from_pretrained` opens, then put in place.

Reads no folder but the one that it has just written (`folder.py` does).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from extcon_cli.channels import Difference, difference
from extcon_cli.channels.compare import EXACT, Examples, each_example, random_batches
from extcon_cli.channels.deferred import is_deferred
from extcon_cli.checkpoint.folder import check_folder
from extcon_cli.checkpoint.huggingface.config import filled, quiet
from extcon_cli.checkpoint.huggingface.examples import without_cache
from extcon_cli.checkpoint.huggingface.folder import (
    CARD,
    FORMATS,
    LARGEST_FILE,
    NOTE,
    WEIGHTS,
    Folder,
    files,
    from_pretrained,
)
from extcon_cli.checkpoint.huggingface.shards import LARGEST_SHARD, read_on_demand, store, stored
from extcon_cli.checkpoint.metadata import Metadata, to_header
from extcon_cli.checkpoint.precision import lossless
from extcon_cli.checkpoint.write import write
from extcon_cli.errors import GateError, UsageError

OURS = ("config.json", CARD, NOTE)
"""Written anew; every other small file is copied as it is."""
WHOLE = (".safetensors", ".bin")
"""Shards of weights."""


def write_folder(
    path: Path,
    module: nn.Module,
    config: Any | None,
    like: Folder,
    metadata: Metadata,
    examples: Examples,  # on the CPU, as the module; it gives no caches
    *,
    card: str = "",
    force: bool = False,
) -> Difference | None:
    """Write the module as a folder of the kind of `like`, with the files that stand beside its weights.

    Args:
        config: that says the module's widths; None: a plan in `metadata` does, and extcon alone opens the folder.
        card: goes to the top of the model card; `{difference}` in it is replaced by what is returned.
        examples: to compare the module on with what plain `from_pretrained` opens.
        force: overwrite a folder of transformers.

    Returns:
        What `from_pretrained` gave beside the module; None where it cannot open the folder.

    Raises:
        GateError: it gave another model; nothing is written.
        UsageError: the folder cannot be written.
    """
    check_folder(path, force=force, like=like.path)
    with _replacing(path) as place:
        found = None
        if config is None:
            shutil.copyfile(like.path / "config.json", place / "config.json")
            write(place / WEIGHTS, module, metadata, precision=like.precision)
        else:
            _save(place, module, config, like)
            note = json.dumps(to_header(metadata.model_copy(update={"plan": None})), indent=1)
            (place / NOTE).write_text(note, encoding="utf-8")
            found = _compared(place, module, examples)
        _copy_beside(like.path, place)
        said = card.replace("{difference}", f"{found.relative:.1e}" if found is not None else "-")
        (place / CARD).write_text(_on_top(said, like.path / CARD), encoding="utf-8")
    return found


def _save(place: Path, module: nn.Module, config: Any, like: Folder) -> None:
    """`save_pretrained` of a plain model with these weights, in the precision and the shards of the original."""
    plain: Any = filled(type(module), config, {name: t.detach().cpu() for name, t in module.state_dict().items()})
    held = plain.state_dict()
    kinds = {lossless(name, tensor, like.precision).dtype for name, tensor in held.items()}
    one = next(iter(kinds)) if len(kinds) == 1 and kinds & set(like.precision.values()) else None
    largest = max((file.stat().st_size for file in files(like.path) if file.suffix in WHOLE), default=2**30)
    if is_deferred(plain):
        largest, scratch = min(largest, LARGEST_SHARD), place / ".scratch"
        store(scratch, {name: tensor.to(one or tensor.dtype) for name, tensor in held.items()})
        plain = filled(type(module), config, stored(scratch), assign=True)
        scratch.unlink()  # its numbers stay until nobody needs them
    elif one is not None:
        plain.to(one)
    with quiet():
        plain.save_pretrained(place, max_shard_size=largest)


def _compared(place: Path, module: nn.Module, examples: Examples) -> Difference:
    """What `from_pretrained` makes of the folder, beside the module."""
    dtype = next(module.parameters()).dtype
    kept = "auto" if is_deferred(module) else dtype
    plain = from_pretrained(place, type(module), trust_code=False, dtype=kept).eval()
    if is_deferred(module):
        read_on_demand(plain, place, dtype)
    without_cache(plain)
    batches = (batch for one in each_example(examples) for batch in random_batches(one, sizes=(1, 3)))
    found = difference(module, plain, batches)
    if not found.relative <= EXACT:
        raise GateError(
            f"from_pretrained opens another model: its outputs differ by {found.relative:.1e} of the largest; nothing "
            "was written"
        )
    return found


def _copy_beside(source: Path, place: Path) -> None:
    """Tokenizer, generation and preprocessor configurations, and whatever else is small and no weights."""
    for file in files(source):
        if file.name not in OURS and not file.name.endswith(FORMATS) and file.stat().st_size <= LARGEST_FILE:
            shutil.copyfile(file, place / file.name)


def _on_top(card: str, old: Path) -> str:
    """The card above the old one, below the old one's front matter."""
    text = old.read_text(encoding="utf-8", errors="replace") if old.is_file() else ""
    front, body = "", text
    if text.startswith("---\n") and (end := text.find("\n---", 3)) > 0:
        end = text.find("\n", end + 1) + 1 or len(text)
        front, body = text[:end] + "\n", text[end:].lstrip("\n")
    return front + card.rstrip() + "\n" + (f"\n---\n\n{body}" if body.strip() else "")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new folder beside, which takes the place of `path` when all is in it; a failure leaves nothing."""
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{what}") for what in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --out") from error
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)
