"""Ctrl-C and SIGTERM wait for the end of the step, so that what is saved is a whole step. A second one is at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Did somebody ask the run to stop? Loops ask `requested` between two steps."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """KeyboardInterrupt if somebody did."""
        if self.requested:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def graceful() -> Iterator[Stop]:
    """Within: the first SIGINT or SIGTERM sets `requested`, the second raises KeyboardInterrupt at once.

    Outside the main thread signals cannot be heard; there `requested` stays as it is set by hand.
    """
    stop = Stop()
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
