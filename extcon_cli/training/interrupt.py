"""Ctrl-C and SIGTERM wait for the end of the step, so that what is saved is a whole step. A second one is at once.

Where nothing is trained there is no step to save, and the first one is at once as well.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Did somebody ask the run to stop? Loops ask `requested` between two steps."""

    def __init__(self, patience: float = 0.0) -> None:
        self.requested = False
        self._patience, self._at = patience, 0.0
        self._waits = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, one process does not wait for the end of a step: there is none. Of several each has to come along."""
        before, self._waits = self._waits, self._patience > 0
        try:
            if not self._waits:
                self.check()
            yield
        finally:
            self._waits = before

    def check(self) -> None:
        """KeyboardInterrupt if somebody did."""
        if self.requested:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self.requested and now - self._at >= self._patience
        if not self.requested:
            self.requested, self._at = True, now
        if again or not self._waits:
            raise KeyboardInterrupt


@contextmanager
def graceful(patience: float = 0.0) -> Iterator[Stop]:
    """Within: the first SIGINT or SIGTERM sets `requested`, the second raises KeyboardInterrupt at once.

    `patience`: seconds in which a second one is the first one's echo: a launcher of several processes passes on the
    Ctrl-C that the terminal has sent to all of them.

    Outside the main thread signals cannot be heard; there `requested` stays as it is set by hand.
    """
    stop = Stop(patience)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop._hear) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
