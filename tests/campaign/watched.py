"""What a reader does with a damaged file beside refusing it: takes too long, or too much memory, or acts.

One watch is one campaign. Limits and signals are those of this process while it lasts.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType

SECONDS = 60.0
"""Of the clock that a case may take, on a machine that does other things as well."""
MEMORY = 2 * 2**30
"""Bytes of address space that a case may take beyond what the process had."""
RUNS = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pickle.find_class",
    "socket.connect", "socket.getaddrinfo",
)  # fmt: skip
"""Python's audit events of what no reader does: run something, unpickle what is not allowed, ask the network."""


class Found(BaseException):
    """What no reader may do; nothing that a reader catches."""


class Watch:
    """Cases one after the other: how many there were and were refused, and the worst of them.

    Args:
        folder: the only place in which a reader's own file may be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self.cases = self.refused = 0
        self.slowest = 0.0
        """Seconds of the processor."""
        self.grown = 0
        """kB by which the largest memory of the process has grown."""

    def __str__(self) -> str:
        return (
            f"{self.cases} cases, {self.refused} refused, none ended in another way; the slowest took "
            f"{self.slowest:.2f} s, memory grew by {self.grown // 1024} MB"
        )

    def __enter__(self) -> Watch:
        _listen()
        self._began = _peak()
        self._limit = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, self._limit[1]))
        self._alarm = signal.signal(signal.SIGALRM, _late)
        return self

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._limit)
        signal.signal(signal.SIGALRM, self._alarm)
        self.grown = _peak() - self._began

    @contextmanager
    def case(self, *, refusal: type[Exception]) -> Iterator[None]:
        """Within, a reader reads a file; Found, or what it raises beside refusals, goes on."""
        global _watched
        self.cases, self.refused = self.cases + 1, self.refused + 1
        began, _watched = time.process_time(), self.folder
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            with suppress(refusal):
                yield
                self.refused -= 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _watched = None
            self.slowest = max(self.slowest, time.process_time() - began)


_watched: str | None = None
"""The folder of the case that is read at this moment."""


@cache
def _listen() -> None:
    """Let Python tell what is done; a listener stays for as long as the process lives."""
    sys.addaudithook(_told)


def _told(event: str, arguments: tuple[object, ...]) -> None:
    if _watched is None:
        return
    if event in RUNS:
        raise Found(f"{event} {arguments}")
    if event == "open" and isinstance(arguments[0], str | bytes):
        path, flags = arguments[0], arguments[2]
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if writes and not os.path.realpath(os.fsdecode(path)).startswith((_watched, os.devnull)):
            raise Found(f"writes {path!r}")


def _late(number: int, frame: FrameType | None) -> None:
    raise Found(f"takes more than {SECONDS} seconds")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
