"""How long a phase will still take, by its recent pace. It reads no clock: whoever draws says what time it is."""

from __future__ import annotations

from collections import deque

WARM_UP = 2.0
"""Seconds of steps before anything is said: the first ones prepare what the others find done."""
WINDOW = 30.0
"""Seconds of steps that the pace is taken from."""


class Remaining:
    """The rest of one phase.

    Args:
        total: steps of the phase; None: nobody knows, and nothing is ever said.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._marks: deque[tuple[float, int]] = deque()  # (seconds, steps done)

    def seconds(self, done: int, now: float) -> float | None:
        """How long the rest takes, where `done` steps were done at `now` (s); None: it is too early to say.

        Neither what lies before the first call counts nor the steps that a resumed run found done.
        """
        self._marks.append((now, done))
        while self._marks[0][0] < now - WINDOW and len(self._marks) > 2:
            self._marks.popleft()
        then, before = self._marks[0]
        if self._total is None or now - then < WARM_UP or done <= before:
            return None
        return (now - then) / (done - before) * (self._total - done)
