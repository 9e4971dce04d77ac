"""Finds the recipe of a run, reads and checks it: `resolve` is what commands call. It opens no checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.bundled import bundled
from extcon_cli.recipe.check import check
from extcon_cli.recipe.document import Document, read, write
from extcon_cli.recipe.overrides import override
from extcon_cli.recipe.schema import Recipe
from extcon_cli.recipe.tree import nearest

Source = Literal["argument", "sidecar", "embedded", "bundled"]

_LARGEST = 256 * 1024  # bytes; a recipe has a few thousand, a checkpoint given by mistake has millions
_FUNCTION_IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<function>[^:/\\]+)")


@dataclass(frozen=True)
class Resolved:
    """A checked recipe and who gave it: only a file that the user named (`argument`) may run code unasked."""

    recipe: Recipe
    source: Source
    path: Path | None


def resolve(
    method: str,
    *,
    recipe: str | Path | None = None,
    checkpoint: Path | None = None,
    embedded: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> Resolved:
    """Find the recipe of a run of `method`, put the overrides in, and check it.

    The first of these that is there is taken, alone: `recipe` (a file, or a bundled name such as
    `prune/digits_resnet`), the sidecar `model.yaml` of the checkpoint `model.pt`, the recipe `embedded` in
    the checkpoint, the bundled default of the method, the schema's defaults. One RecipeError tells all.
    An embedded recipe cannot turn `data.download` on; an override can.
    """
    source, path = _choose(method, recipe, checkpoint, embedded)
    try:
        if path is not None:
            document = read_file(path)
        else:
            document = Document(f"the recipe in {checkpoint or 'the checkpoint'}", _offline(embedded or {}))
        return Resolved(check(_at_home(override(document, overrides))), source, path)
    except RecipeError as error:
        if source == "sidecar" and not all(line.startswith("--set ") for line in str(error).splitlines()):
            raise RecipeError(f"{error}\n{path} lies beside the checkpoint; --recipe takes another one") from None
        raise


def _offline(embedded: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe out of a checkpoint fetches nothing, and so writes nothing: only the user can ask for that."""
    data = embedded.get("data")
    if isinstance(data, Mapping) and "download" in data:
        return {**embedded, "data": {**data, "download": False}}
    return embedded


def _choose(
    method: str, recipe: str | Path | None, checkpoint: Path | None, embedded: Mapping[str, Any] | None
) -> tuple[Source, Path | None]:
    if recipe is not None:
        path = find(recipe, method)
        return ("bundled" if path in bundled().values() else "argument"), path
    sidecar = checkpoint.with_suffix(".yaml") if checkpoint else None
    if sidecar is not None and sidecar != checkpoint and sidecar.is_file():
        return "sidecar", sidecar
    if embedded is not None:
        return "embedded", None
    return "bundled", bundled().get(f"{method}/default")


def find(recipe: str | Path, method: str = "") -> Path:
    """Find what the user calls `recipe`: a file, or a bundled name, also without the `method` before it."""
    names = bundled()
    if os.path.exists(recipe):
        return Path(recipe)
    for name in (str(recipe), f"{method}/{recipe}"):
        if name in names:
            return names[name]
    near = nearest(recipe, names) or nearest(f"{method}/{recipe}", names)
    hint = f"did you mean {near!r}?" if near else "`extcon recipe list` shows them"
    raise RecipeError(f"{recipe}: no such file, and no bundled recipe of this name ({hint})")


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check one recipe file."""
    return check(_at_home(override(read_file(path), overrides)))


def from_dict(values: Mapping[str, Any], source: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Check a recipe given as plain values; `source` names it in errors."""
    return check(override(Document(source, values), overrides))


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values that JSON and YAML can hold, with every default filled in."""
    return recipe.model_dump(mode="json")


def dump(recipe: Recipe) -> str:
    """Write the recipe as YAML, with every default filled in."""
    return write(to_dict(recipe))


def read_file(path: Path) -> Document:
    """Read a recipe file without checking its keys. Functions in files beside it are then named from here."""
    document = read(read_text(path), str(path))
    if document.values is None and not document.problems:
        raise RecipeError(f"{path}: is empty; a recipe has keys such as `model`, `data` and `train`")
    _name_from_here(document, path.parent)
    return document


def read_text(path: Path) -> str:
    """Return the text of a recipe file. RecipeError: a folder, not text, or far too large."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        problem = "is a folder, not a recipe" if path.is_dir() else f"cannot be read: {error.strerror}"
        raise RecipeError(f"{path}: {problem}") from None
    if len(content) > _LARGEST:
        raise RecipeError(f"{path}: is not a recipe: larger than {_LARGEST // 1024} KiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not a recipe: not UTF-8 text") from None


def _name_from_here(document: Document, folder: Path) -> None:
    """Let `file.py:function` in a recipe mean the file beside the recipe, wherever the command runs."""

    def moved(value: str) -> str:
        match = _FUNCTION_IN_FILE.fullmatch(value)
        return f"{folder / os.path.expanduser(match['file'])}:{match['function']}" if match else value

    _change_text(document, ("model", "arch"), moved)
    _change_text(document, ("data", "dataset"), moved)
    _change_text(document, ("task",), moved)


def _at_home(document: Document) -> Document:
    """Let `~` in `data.root` mean the home folder."""
    _change_text(document, ("data", "root"), os.path.expanduser)
    return document


def _change_text(document: Document, place: tuple[str, ...], change: Callable[[str], str]) -> None:
    *above, key = place
    values = document.values
    for section in above:
        values = values.get(section) if isinstance(values, dict) else None
    if isinstance(values, dict) and isinstance(values.get(key), str):
        values[key] = change(values[key])
