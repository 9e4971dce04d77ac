"""Data that fit in memory: named arrays from .npz and .safetensors, tables from .csv, two bundled sets.

Every reader gives a `Source`; sizes, numbers and labels are checked here, so that a loop never meets bad ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extcon_cli.data.limits import check_npz
from extcon_cli.data.paths import one_file
from extcon_cli.data.splits import TEST_SEED, Arrays, Source
from extcon_cli.errors import DataError, one_line
from extcon_cli.recipe.schema import DataSpec

NUMBERS = ("regression", "multi_label")
"""Tasks whose targets are rows of numbers."""


def digits(spec: DataSpec, task: str) -> Source:
    """The bundled 8x8 handwritten digits: 1,437 training and 360 test images of 10 classes."""
    return from_mapping(_npz(Path(__file__).with_name("digits.npz")), task, "digits")


def eggholder(spec: DataSpec, task: str) -> Source:
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


def arrays(spec: DataSpec, task: str) -> Source:
    """x_train, y_train, x_test, y_test, or x, y with a fixed split, of an .npz or .safetensors file."""
    path = one_file(spec.root, (".npz", ".safetensors"), spec.dataset)
    return from_mapping(_npz(path) if path.suffix.lower() == ".npz" else _safetensors(path), task, str(path))


def from_mapping(named: Mapping[str, Any], task: str, where: str) -> Source:
    """A Source of arrays named x_train, y_train, x_test, y_test (and x_val, y_val), or x, y (DataError: which lack)."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    if all(key in named for key in keys):
        own = {"validation": (named["x_val"], named["y_val"])} if {"x_val", "y_val"} <= set(named) else {}
        pairs = {name: (named[f"x_{name}"], named[f"y_{name}"]) for name in ("train", "test")}
        return from_splits({**pairs, **own}, task, where)
    if "x" in named and "y" in named:
        return from_splits({"train": (named["x"], named["y"])}, task, where)
    found = ", ".join(sorted(named)[:6]) or "nothing"
    raise DataError(f"{where}: should hold {', '.join(keys)} (or x and y), holds {found}")


def from_splits(parts: Mapping[str, tuple[Any, Any]], task: str, where: str) -> Source:
    """(inputs, targets) of `train`, `test` and `validation`; of `train` alone a random part is the test."""
    names, targets_of = _labels({split: y for split, (_, y) in parts.items()}, task, where)
    splits = {}
    for split, (x, _) in parts.items():
        place = f"{where}: {'x' if len(parts) == 1 else f'x_{split}'}"
        splits[split] = _same_length(Arrays(_inputs(x, place), targets_of[split]), f"{where}: {split}")
    train = splits["train"]
    for split, part in splits.items():
        if train.x.shape[1:] != part.x.shape[1:] or train.x.dtype != part.x.dtype:
            raise DataError(
                f"{where}: x_train is {train.x.dtype} {tuple(train.x.shape)}, "
                f"x_{split} is {part.x.dtype} {tuple(part.x.shape)}; they should agree but for the length"
            )
    return Source.of(splits, names)


def _npz(path: Path) -> dict[str, Any]:
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's parser of headers raise nearly anything
        raise DataError(f"{path}: cannot be read as .npz: {one_line(error)}") from error


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as .safetensors: {error}") from error


def _inputs(raw: Any, where: str) -> Tensor:
    x = _tensor(raw, where)
    if x.dim() > 1 and not x[0:1].numel() and len(x):
        raise DataError(f"{where}: is {tuple(x.shape)}; an input without numbers teaches nothing")
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


def _labels(given: Mapping[str, Any], task: str, where: str) -> tuple[tuple[str, ...] | None, dict[str, Tensor]]:
    """The names of classes that are words, and the targets of each split."""
    raw = {split: y if isinstance(y, Tensor) else np.asarray(y) for split, y in given.items()}
    names = None
    if task == "classification" and any(isinstance(y, np.ndarray) and y.dtype.kind in "US" for y in raw.values()):
        words = sorted({str(word) for y in raw.values() for word in np.asarray(y).ravel()})
        names, number = tuple(words), {word: i for i, word in enumerate(words)}
        raw = {
            split: np.array([number[str(word)] for word in np.asarray(y).ravel()], dtype=np.int64)
            for split, y in raw.items()
        }
    return names, {split: targets(_tensor(y, f"{where}: y"), task, where) for split, y in raw.items()}


def targets(y: Tensor, task: str, where: str) -> Tensor:
    """Classes as (N,) int64 not below 0; rows of numbers as (N, K) float32, finite; others as they are."""
    if not y.dim():
        raise DataError(f"{where}: the targets are a single value; one for each sample is needed")
    if task in NUMBERS:
        y = y.float().reshape(len(y), -1) if len(y) else y.float()
        if not torch.isfinite(y).all():
            raise DataError(f"{where}: the targets hold NaN or infinity; remove such samples")
        return y
    if task != "classification":
        return y if y.is_floating_point() else y.long()
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
        if raw.is_complex():
            raise DataError(f"{where}: holds {raw.dtype}, not real numbers")
        return raw
    array = np.asarray(raw)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where}: holds {array.dtype}, not numbers")
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 2**63:
        raise DataError(f"{where}: holds {int(array.max())}, too large for a whole number here")
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32) if array.dtype.kind == "f" else array))


def _same_length(part: Arrays, where: str) -> Arrays:
    if len(part.x) != len(part.y):
        raise DataError(f"{where}: {len(part.x)} inputs, but {len(part.y)} targets")
    if not len(part.x):
        raise DataError(f"{where}: holds no samples")
    return part
