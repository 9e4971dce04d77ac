"""Times of calls that take turns, so that what else the machine does meets all of them alike. Knows no module."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]
Clock = Callable[[], float]
"""Tells seconds that only their differences say something of."""
LEAST_ROUNDS, MOST_ROUNDS = 5, 1000
TICK = 1e-3
"""Seconds that a single measurement lasts at least: shorter calls are repeated in it."""
HARD_LIMIT = 10.0
"""Times the seconds asked for after which measuring ends, however few rounds there were."""


@dataclass(frozen=True)
class Spread:
    """The median of some measurements, and between which two their middle half lies."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Spread:
        """Of numbers: (rounds,)."""
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(middle, low, high)


@dataclass(frozen=True, eq=False)
class Times:
    """Seconds of each call in each round: (calls, rounds)."""

    seconds: NDArray[np.float64]

    def of(self, call: int) -> Spread:
        """Seconds of one call."""
        return Spread.of(self.seconds[call])

    def ratio(self, call: int, to: int) -> Spread:
        """How many times as long as another one a call takes, round by round."""
        return Spread.of(self.seconds[call] / self.seconds[to])

    def least(self, call: int) -> float:
        """Its shortest time: what the others' work on this machine touches least."""
        return float(self.seconds[call].min())


def take_turns(
    calls: Sequence[Call],
    *,
    seconds: float,
    clock: Clock = time.perf_counter,
    progress: Callable[[], object] = lambda: None,
) -> Times:
    """Call each in turn, round after round, for about `seconds` by `clock` in all, after a round to warm up.

    At least five rounds, but none begins after ten times as long by wall time; the first one counts in any case.
    `clock` tells what counts; `progress` is called after each round.
    """
    repeats = [_repeats(call, clock) for call in calls]
    rounds: list[list[float]] = []
    began, counted = time.perf_counter(), clock()
    while len(rounds) < MOST_ROUNDS:
        rounds.append([_clock(call, number, clock) for call, number in zip(calls, repeats, strict=True)])
        progress()
        enough = clock() - counted > seconds and len(rounds) >= LEAST_ROUNDS
        if enough or time.perf_counter() - began > HARD_LIMIT * seconds:
            break
    return Times(np.array(rounds).T)


def _repeats(call: Call, clock: Clock) -> int:
    """How often to repeat a call that one tick may pass; it is warm afterwards."""
    call()
    return max(1, min(1000, int(TICK / max(_clock(call, 1, clock), 1e-7))))


def _clock(call: Call, number: int, clock: Clock) -> float:
    began = clock()
    for _ in range(number):
        call()
    return max(clock() - began, 1e-9) / number
