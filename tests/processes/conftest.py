"""How the tests start several processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def start() -> Callable[[Sequence[str], int, Path], list[subprocess.Popen[str]]]:
    """Start so many of this Python with the same arguments, in a folder."""
    return started


def started(arguments: Sequence[str], number: int, folder: Path) -> list[subprocess.Popen[str]]:
    """As torchrun does, without its own process: each told its place by the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in common.items()},
                 "RANK": str(place), "LOCAL_RANK": str(place)},
        )
        for place in range(number)
    ]  # fmt: skip
