"""Calls that take turns: their medians, their ratio, and the time that measuring takes."""

from __future__ import annotations

import time

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


def test_calls_take_turns_for_a_bounded_time() -> None:
    order: list[str] = []

    def called(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    rounds: list[None] = []
    began = time.perf_counter()
    times = take_turns(
        [lambda: called("short", 0.002), lambda: called("long", 0.008)],
        seconds=0.01,
        progress=lambda: rounds.append(None),
    )
    assert time.perf_counter() - began < 2
    assert times.seconds.shape == (2, len(rounds))
    assert len(rounds) >= LEAST_ROUNDS
    assert order[4:] == ["short", "long"] * len(rounds)  # two of each to warm up
    assert times.ratio(1, 0).median > 1.5


def test_a_slow_call_is_not_repeated_without_end() -> None:
    times = take_turns([lambda: time.sleep(0.02)], seconds=1e-3)
    assert times.seconds.shape[1] == 1


def test_short_calls_are_measured_in_bunches() -> None:
    count = 0

    def short() -> None:
        nonlocal count
        count += 1

    times = take_turns([short], seconds=1e-6)
    assert count > 50
    assert times.of(0).median < 1e-3
    assert times.of(0).median == pytest.approx(times.seconds[0].mean(), abs=1e-3)
