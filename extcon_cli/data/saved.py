"""Folders that the library `datasets` saved (`save_to_disk`). Nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from extcon_cli.data.arrays import from_splits
from extcon_cli.data.paths import NAMES, folder_of
from extcon_cli.data.splits import Source, Stream
from extcon_cli.data.text import tokenised
from extcon_cli.errors import DataError, UsageError, one_line
from extcon_cli.recipe.schema import DataSpec

INPUTS = ("image", "img", "text", "sentence", "content", "x", "inputs")
TARGETS = ("label", "labels", "fine_label", "target", "y")
"""What the columns of inputs and targets may be called, the first that is there."""


def saved(spec: DataSpec, task: str) -> Source:
    """A saved DatasetDict with train and test (or validation), or a saved Dataset, of which a random part is the test.

    Columns of pictures are streamed, text becomes tokens, numbers become arrays.
    """
    folder = folder_of(spec.root, spec.dataset, "what save_to_disk of `datasets` wrote")
    parts = _splits(folder)
    columns = parts["train"].column_names
    x = next((name for name in INPUTS if name in columns), None)
    y = next((name for name in TARGETS if name in columns), None)
    if x is None or (y is None and task not in ("causal_lm", "masked_lm")):
        wanted = f"{', '.join(INPUTS)} and of {', '.join(TARGETS)}"
        raise DataError(f"{folder}: should have a column of {wanted}; it has {', '.join(columns)}")
    kind = type(parts["train"].features[x]).__name__
    names = getattr(parts["train"].features[y], "names", None) if y is not None else None
    try:
        if kind == "Image":
            return _pictures(parts, x, str(y), names)
        first = parts["train"][0][x]
        if isinstance(first, str):
            documents = {
                split: [(row[x], _label(row[y], names) if y is not None else None) for row in part]
                for split, part in parts.items()
            }
            return tokenised(documents, spec, task, str(folder))
        found = {split: (np.asarray(part[x][:]), np.asarray(part[y][:])) for split, part in parts.items()}
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{folder}: {type(error).__name__}: {one_line(error)}") from error
    return from_splits(found, task, str(folder))


def _splits(folder: Path) -> dict[str, Any]:
    try:
        from datasets import Dataset as Table
        from datasets import load_from_disk
    except ImportError as error:
        raise UsageError("dataset 'saved' needs the library datasets: pip install 'extcon[hf]'") from error
    try:
        found = load_from_disk(str(folder))
    except Exception as error:  # the library raises whatever its parsers raise
        raise DataError(f"{folder}: no folder of `datasets`: {one_line(error)}") from error
    if isinstance(found, Table):
        return {"train": found}
    parts = {split: found[name] for split, names in NAMES.items() for name in names if name in found}
    if "train" not in parts:
        raise DataError(f"{folder}: has no split `train`, but {', '.join(map(str, found))}")
    return parts


def _label(value: Any, names: Any) -> Any:
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value


def _pictures(parts: dict[str, Any], x: str, y: str, names: Any) -> Source:
    splits = {split: Stream(Columns(part, x, y), torch.arange(len(part))) for split, part in parts.items()}
    classes = tuple(map(str, names)) if names else None
    return Source.of(splits, classes, pictures=True)


class Columns(Dataset[Any]):
    """Two columns of a table as (picture, class number)."""

    def __init__(self, table: Any, x: str, y: str) -> None:
        self.table, self.x, self.y = table, x, y

    def __getitem__(self, index: int) -> Any:
        row = self.table[index]
        return row[self.x].convert("RGB"), row[self.y]

    def __len__(self) -> int:
        return len(self.table)
