"""Calls that take turns: their medians, their ratio, and the time that measuring takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from extcon_cli.latency.clock import LEAST_ROUNDS, Spread, Times, take_turns


def test_a_spread_is_the_middle_half() -> None:
    found = Spread.of(np.arange(5.0))
    assert (found.low, found.median, found.high) == (1, 2, 3)


def test_a_ratio_is_taken_round_by_round() -> None:
    """The machine is three times as slow in the second round; the ratio does not see it."""
    times = Times(np.array([[2.0, 6.0, 2.0], [1.0, 3.0, 1.0]]))
    ratio = times.ratio(1, 0)
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.5, 0.5)
    assert times.of(0).median == 2
    assert times.least(1) == 1


@dataclass
class Clock:
    """Time that passes where a call says so."""

    now: float = 0.0
    order: list[str] = field(default_factory=list)

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


def test_calls_take_turns_for_the_time_asked_for() -> None:
    clock, rounds = Clock(), list[None]()
    times = take_turns(
        [clock.call("short", 0.002), clock.call("long", 0.008)],
        seconds=0.1,
        clock=lambda: clock.now,
        progress=lambda: rounds.append(None),
    )
    assert times.seconds.shape == (2, len(rounds))
    assert 10 <= len(rounds) <= 12
    assert clock.order[4:] == ["short", "long"] * len(rounds)  # two of each to warm up
    assert times.ratio(1, 0).median == pytest.approx(4)
    few = take_turns([clock.call("long", 1.0)], seconds=0.1, clock=lambda: clock.now)
    assert few.seconds.shape[1] == LEAST_ROUNDS


def test_a_slow_call_is_not_repeated_without_end() -> None:
    """Whatever the clock says, the wall clock has a say too."""
    times = take_turns([lambda: time.sleep(0.02)], seconds=1e-3, clock=lambda: 0.0)
    assert times.seconds.shape[1] == 1


def test_short_calls_are_measured_in_bunches() -> None:
    clock = Clock()
    times = take_turns([clock.call("short", 1e-5)], seconds=0.01, clock=lambda: clock.now)
    assert len(clock.order) == pytest.approx(100 * times.seconds.shape[1], abs=110)
    assert times.of(0).median == pytest.approx(1e-5)
