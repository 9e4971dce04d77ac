"""The library ultralytics: imported so that it fetches and installs nothing, and silent while it works for us.

It is licensed under AGPL-3.0; extcon calls it where the user has it, and ships none of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from extcon_cli.errors import UsageError

SWITCHES = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
"""What it asks the environment for when it is imported: it would fetch, install, and write to the standard output."""


def library(name: str = "") -> Any:
    """The library, or one of its modules. UsageError: it is not installed."""
    if find_spec("ultralytics") is None:
        raise UsageError("checkpoints of Ultralytics need its library: pip install ultralytics")
    switch_off()
    return import_module(f"ultralytics.{name}" if name else "ultralytics")


def switch_off() -> None:
    """Let it fetch, install and print nothing where it is imported from now on, such as by unpickling."""
    for switch, value in SWITCHES.items():
        os.environ.setdefault(switch, value)


@contextmanager
def quiet() -> Iterator[None]:
    """Without its log and its progress bars, which go to the standard output; what it set up for a training is undone.

    Its errors are logged as before.
    """
    log = library("utils").LOGGER
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        library("utils.torch_utils").unset_deterministic()
