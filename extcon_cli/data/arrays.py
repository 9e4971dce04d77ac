"""Data that fit in memory: named arrays from .npz and .safetensors, tables from .csv, two bundled sets.

Every reader gives a `Source`; sizes, numbers and labels are checked here, so that a loop never meets bad ones.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extcon_cli.data.splits import Arrays, Source, held_out, one_file
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec, Task

TEST_SHARE, TEST_SEED = 0.2, 20_250_714
"""What is cut off for the test where a file knows no split of its own; the same on every machine."""


def digits(spec: DataSpec, task: Task) -> Source:
    """The bundled 8x8 handwritten digits: 1,437 training and 360 test images of 10 classes."""
    return from_mapping(_npz(Path(__file__).with_name("digits.npz")), task, "digits")


def eggholder(spec: DataSpec, task: Task) -> Source:
    """100 points to train on and 100 test points, uniform in (-250, 250)^2, of the Bypass paper's section V-A.

    What `data.validation` cuts off is drawn in addition, so that 100 remain to train on.
    """
    if task != "regression":
        raise DataError("dataset 'eggholder' is a regression: set `task: regression`")
    generator = torch.Generator().manual_seed(TEST_SEED)
    number = 100 + round(100 / (1 - spec.validation))
    points = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 500 - 250
    values = eggholder_function(points)[:, None].float()
    points = points.float()
    return Source(Arrays(points[100:], values[100:]), Arrays(points[:100], values[:100]))


def eggholder_function(points: Tensor) -> Tensor:  # (N, 2) -> (N,)
    """-x1 sin(sqrt|x1 - x2 + 47|) + (-x2 + 47) sin(sqrt|x2 + x1/2 + 47|), the paper's form."""
    x1, x2 = points.unbind(1)
    return -x1 * (x1 - x2 + 47).abs().sqrt().sin() + (-x2 + 47) * (x2 + x1 / 2 + 47).abs().sqrt().sin()


def arrays(spec: DataSpec, task: Task) -> Source:
    """x_train, y_train, x_test, y_test, or x, y with a fixed split, of an .npz or .safetensors file."""
    path = one_file(spec.root, (".npz", ".safetensors"), spec.dataset)
    return from_mapping(_npz(path) if path.suffix.lower() == ".npz" else _safetensors(path), task, str(path))


def table(spec: DataSpec, task: Task) -> Source:
    """A .csv with a header; the target is the column named `target`, else the last one; a fixed split."""
    path = one_file(spec.root, (".csv",), spec.dataset)
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
    x = torch.tensor([[_number(path, n, header[i], row[i]) for i in features] for n, row in enumerate(body, 2)])
    column = [row[target].strip() for row in body]
    if task == "regression":
        y: Any = np.array([_number(path, n, header[target], cell) for n, cell in enumerate(column, 2)])
    else:
        y = np.array(column)
        if all(cell.lstrip("+-").isdigit() for cell in column):
            y = y.astype(np.int64)
    return from_mapping({"x": x.numpy(), "y": y}, task, str(path))


def from_mapping(named: Mapping[str, Any], task: Task, where: str) -> Source:
    """A Source of arrays or tensors named x_train, y_train, x_test, y_test, or x, y (DataError: which are missing)."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    if all(key in named for key in keys):
        names, y_train, y_test = _labels(named["y_train"], named["y_test"], task, where)
        train = Arrays(_inputs(named["x_train"], f"{where}: x_train"), y_train)
        test = Arrays(_inputs(named["x_test"], f"{where}: x_test"), y_test)
    elif "x" in named and "y" in named:
        names, y, _ = _labels(named["y"], named["y"], task, where)
        whole = _same_length(Arrays(_inputs(named["x"], f"{where}: x"), y), where)
        stays, aside = held_out(len(whole), TEST_SHARE, seed=TEST_SEED)
        train, test = whole.select(stays), whole.select(aside)
    else:
        found = ", ".join(sorted(named)[:6]) or "nothing"
        raise DataError(f"{where}: should hold {', '.join(keys)} (or x and y), holds {found}")
    for part, name in ((train, "train"), (test, "test")):
        _same_length(part, f"{where}: {name}")
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        raise DataError(
            f"{where}: x_train is {train.x.dtype} {tuple(train.x.shape)}, "
            f"x_test is {test.x.dtype} {tuple(test.x.shape)}; they should agree but for the length"
        )
    return Source(train, test, names)


def _npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path}: cannot be read as .npz: {error}") from error


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as .safetensors: {error}") from error


def _inputs(raw: Any, where: str) -> Tensor:
    x = _tensor(raw, where)
    if x.dim() < 2:
        raise DataError(f"{where}: is {tuple(x.shape)}; one sample a row is needed, so at least two dimensions")
    if x.dtype == torch.uint8 and x.dim() < 3:
        x = x.float()  # a table, not an image
    if x.dtype in (torch.uint8, torch.int64, torch.int32):
        return x.long() if x.dtype == torch.int32 else x
    x = x.float()
    if not torch.isfinite(x).all():
        first = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])
        raise DataError(f"{where}: sample {first} holds NaN or infinity; remove or fill in such samples")
    return x


def _labels(train: Any, test: Any, task: Task, where: str) -> tuple[tuple[str, ...] | None, Tensor, Tensor]:
    both = [np.asarray(y) if not isinstance(y, Tensor) else y for y in (train, test)]
    names = None
    if task == "classification" and any(isinstance(y, np.ndarray) and y.dtype.kind in "US" for y in both):
        words = sorted({str(word) for y in both for word in np.asarray(y).ravel()})
        names, number = tuple(words), {word: i for i, word in enumerate(words)}
        both = [np.array([number[str(word)] for word in np.asarray(y).ravel()], dtype=np.int64) for y in both]
    y_train, y_test = (targets(_tensor(y, f"{where}: y"), task, where) for y in both)
    return names, y_train, y_test


def targets(y: Tensor, task: Task, where: str) -> Tensor:
    """Labels as (N,) int64 not below 0, or regression targets as (N, K) float32, finite."""
    if task == "regression":
        y = y.float().reshape(len(y), -1) if len(y) else y.float()
        if not torch.isfinite(y).all():
            raise DataError(f"{where}: the targets hold NaN or infinity; remove such samples")
        return y
    if task != "classification":
        return y  # as the task takes them
    y = y.squeeze(1) if y.dim() == 2 and y.shape[1] == 1 else y
    if y.dim() != 1:
        raise DataError(f"{where}: the labels are {tuple(y.shape)}; one class number for each sample is needed")
    if y.is_floating_point() and not torch.equal(y, y.round()):
        raise DataError(f"{where}: the labels are not whole numbers; is this a regression? (task: regression)")
    y = y.long()
    if len(y) and int(y.min()) < 0:
        raise DataError(f"{where}: a label is {int(y.min())}; classes are numbered from 0")
    return y


def _tensor(raw: Any, where: str) -> Tensor:
    if isinstance(raw, Tensor):
        return raw
    array = np.asarray(raw)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where}: holds {array.dtype}, not numbers")
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32) if array.dtype.kind == "f" else array))


def _same_length(part: Arrays, where: str) -> Arrays:
    if len(part.x) != len(part.y):
        raise DataError(f"{where}: {len(part.x)} inputs, but {len(part.y)} targets")
    if not len(part.x):
        raise DataError(f"{where}: holds no samples")
    return part


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise DataError(f"{path}:{line}: column {column!r} holds {cell!r}, not a number") from error
