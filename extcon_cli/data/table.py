"""Tables: .csv files with a header. Words are classes, or no numbers; it draws no conclusion about the task."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from extcon_cli.data.arrays import NUMBERS, from_splits
from extcon_cli.data.kinds import whole_number
from extcon_cli.data.paths import split_files
from extcon_cli.data.splits import Source
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec

LARGEST = 2**63


def table(spec: DataSpec, task: str) -> Source:
    """A .csv with a header, or train.csv with test.csv; the target is the column named `target`, else the last one."""
    files = split_files(spec.root, (".csv",), spec.dataset)
    headers, parts = {}, {}
    for split, path in files.items():
        headers[split], parts[split] = _read(path, task)
    for split, header in headers.items():
        if header != headers["train"]:
            odd = sorted(set(header) ^ set(headers["train"])) or ["their order"]
            raise DataError(f"{files[split]}: its columns differ from those of {files['train'].name}: {odd[0]}")
    if task not in NUMBERS and not all(y.dtype.kind == "i" for _, y in parts.values()):
        parts = {split: (x, y.astype(str)) for split, (x, y) in parts.items()}  # words in one file are words in all
    return from_splits(parts, task, str(files["train"] if len(files) == 1 else files["train"].parent))


def _read(path: Path, task: str) -> tuple[list[str], tuple[Any, Any]]:
    """The header, and (inputs (N, K) float32, targets (N,))."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    if len(rows) < 3 or len(rows[0]) < 2:
        raise DataError(f"{path}: should hold a header, two rows and two columns at the least")
    header, body = [name.strip() for name in rows[0]], rows[1:]
    target = header.index("target") if "target" in header else len(header) - 1
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise DataError(f"{path}:{number}: has {len(row)} columns, the header has {len(header)}")
    features = [i for i in range(len(header)) if i != target]
    numbers = [[_number(path, n, header[i], row[i]) for i in features] for n, row in enumerate(body, 2)]
    with np.errstate(over="ignore"):  # infinities are refused with the others
        x = np.array(numbers, dtype=np.float32)
    column = [row[target].strip() for row in body]
    if task in NUMBERS:
        return header, (x, np.array([_number(path, n, header[target], cell) for n, cell in enumerate(column, 2)]))
    if not all(map(whole_number, column)):
        return header, (x, np.array(column))
    if top := next((cell for cell in column if abs(int(cell)) >= LARGEST), None):
        raise DataError(f"{path}: column {header[target]!r} holds {top[:40]}, too large for a class number")
    return header, (x, np.array([int(cell) for cell in column], dtype=np.int64))


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise DataError(f"{path}:{line}: column {column!r} holds {cell[:40]!r}, not a number") from error
