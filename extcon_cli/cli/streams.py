"""stdin, stdout and stderr as they may be found: closed, full, without a reader, in an encoding that lacks signs.

Called once, before anything is read or written. What goes wrong on stderr never ends a run: it only tells how a run
goes. What goes wrong on stdout is an error, unless its reader has gone away, such as `head`.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO, cast


class Unbreakable:
    """stderr, of which the first failure to write is the last: from then on nobody is told anything."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it, if that goes."""
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush it, if that goes."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        to_nowhere(2)


def prepare() -> None:
    """Give the process three open streams that can write every character."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would take its place, and get what is printed
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - open as long as the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = cast(TextIO, Unbreakable(sys.stderr))


def to_nowhere(descriptor: int) -> None:
    """What is written to it from now on, or still stands in a buffer, is dropped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def shows(signs: str, stream: TextIO) -> bool:
    """Can the stream write these characters?"""
    try:
        signs.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
