"""`file.py:function`: the user's own data sets, which worker processes can read too."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from extcon_cli.data.arrays import from_mapping
from extcon_cli.data.paths import expanded
from extcon_cli.data.splits import Source, Stream
from extcon_cli.errors import DataError, ExtconError, UsageError, one_line
from extcon_cli.recipe.schema import DataSpec


def user_function(spec: DataSpec, task: str, *, trust_code: bool) -> Source:
    """What `file.py:function` returns: (train, test) datasets, or a mapping with x_train, y_train, x_test, y_test."""
    place, _, name = spec.dataset.rpartition(":")
    path = expanded(place)
    if not trust_code:
        raise UsageError(f"data.dataset {spec.dataset!r} runs code: pass --trust-code if you trust {path}")
    if not path.is_file():
        raise DataError(f"{path}: no such file (data.dataset {spec.dataset!r})")
    file = UserFile(path.resolve())
    try:
        function = getattr(file.load(), name, None)
        if not callable(function):
            raise DataError(f"{path}: has no function {name!r}")
        given = function()
    except ExtconError:
        raise
    except Exception as error:
        raise DataError(f"{spec.dataset}: {type(error).__name__}: {error}") from error
    if isinstance(given, Mapping):
        return from_mapping(given, task, spec.dataset)
    if not (isinstance(given, tuple | list) and len(given) == 2):
        raise DataError(f"{spec.dataset}: should return (train, test) or a mapping, not a {type(given).__name__}")
    if all(isinstance(part, TensorDataset) and len(part.tensors) == 2 for part in given):
        tensors = dict(
            zip(("x_train", "y_train", "x_test", "y_test"), (*given[0].tensors, *given[1].tensors), strict=True)
        )
        return from_mapping(tensors, task, spec.dataset)
    train, test = (_streamed(file, part, spec.dataset) for part in given)
    names = getattr(given[0], "classes", None)
    return Source(train, test, tuple(map(str, names)) if isinstance(names, tuple | list) else None)


class UserFile:
    """A Python file. Whoever unpickles it imports it under the same name, so that its classes are found."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """What the module is called in `sys.modules`."""
        return f"extcon_data_{self.path.stem}"

    def load(self) -> ModuleType:
        """Run the file. Any error of its own."""
        spec = spec_from_file_location(self.name, self.path)
        if spec is None or spec.loader is None:
            raise DataError(f"{self.path}: is not a Python file")
        module = sys.modules[self.name] = module_from_spec(spec)
        sys.path.insert(0, str(self.path.parent))  # as with `python file.py`, files beside it can be imported
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(self.path.parent))
        return module

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.path,)


def _loaded(path: Path) -> UserFile:
    file = UserFile(path)
    file.load()
    return file


class UserDataset(Dataset[Any]):
    """A dataset of the user's. Pickled, its file comes before it, and so is imported before it is needed."""

    def __init__(self, file: UserFile, dataset: Any) -> None:
        self.file = file
        self.dataset = dataset

    @property
    def samples(self) -> Any:
        """Where each sample lies, of datasets that say so."""
        return getattr(self.dataset, "samples", None)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)


def unpicklable(datasets: tuple[Any, ...]) -> str | None:
    """Why the datasets cannot be sent to another process; None: they can."""
    try:
        pickle.Pickler(_Nowhere()).dump(datasets)
    except Exception as error:  # of any kind: the user's objects are asked
        return one_line(error)
    return None


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


def _streamed(file: UserFile, dataset: Dataset[Any], where: str) -> Stream:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(f"{where}: gives a {type(dataset).__name__}; a dataset with a length is needed")
    return Stream(UserDataset(file, dataset), torch.arange(len(dataset)))
