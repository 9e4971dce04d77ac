"""Find a factory in the user's own code: `file.py:factory` or `package.module:factory`. Only with their consent."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from extcon_cli.errors import UsageError, typed_line


def find_factory(arch: str, *, trust_code: bool, beside: Path | None = None) -> Callable[..., Any]:
    """The function or class that `arch` names. UsageError if code is not trusted, not there, or fails to import."""
    place, _, name = arch.rpartition(":")
    if not trust_code:
        raise UsageError(
            f"{arch} would run code from {place}: pass --trust-code (trust_code=True) if you trust its source"
        )
    module = _from_file(place, beside) if place.endswith(".py") else _from_package(place, beside)
    factory = getattr(module, name, None)
    if not callable(factory):
        near = get_close_matches(name, [n for n in vars(module) if callable(getattr(module, n))], n=1)
        raise UsageError(f"{place} has no function {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return factory


def _from_file(place: str, beside: Path | None) -> ModuleType:
    path = Path(place).expanduser()
    if not path.is_file() and beside is not None:
        path = beside / path.name
    if not path.is_file():
        raise UsageError(f"{place}: no such file")
    path = path.resolve()
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{place} cannot be imported")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise UsageError(f"{place} cannot be imported: {_where(error)}") from error
    return module


def _module_name(path: Path) -> str:
    """As `import` in the file's folder calls it, so that pickles of its classes name what others can import too.

    A name that is another module's, such as `torch.py`, cannot be used: it gets one of our own.
    """
    with importable(path.parent):
        loaded = sys.modules.get(path.stem)
        try:
            spec = loaded.__spec__ if loaded is not None else find_spec(path.stem)
        except (ImportError, ValueError):
            spec = None
    if path.stem.isidentifier() and spec is not None and spec.origin and Path(spec.origin) == path:
        return path.stem
    return f"extcon_user_{path.stem}_{sha256(bytes(path)).hexdigest()[:8]}"


def _from_package(place: str, beside: Path | None) -> ModuleType:
    try:
        with importable(beside or Path.cwd()), importable(Path.cwd()):
            return import_module(place)
    except Exception as error:  # the user's own code: any kind
        raise UsageError(f"{place} cannot be imported: {_where(error)}") from error


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """As with `python file.py`, files beside it can be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _where(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    line = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if len(frames) > 1 else ""
    return f"{typed_line(error)}{line}"
