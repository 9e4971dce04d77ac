"""How long the rest of a phase takes: by the pace of its steps, not by what lies before the first."""

from __future__ import annotations

import pytest

from extcon_cli.cli.eta import Remaining


def test_a_slow_first_step_does_not_make_an_hour_of_a_minute() -> None:
    remaining = Remaining(600)
    assert remaining.seconds(1, 7.2) is None  # 7 s of preparation for one step: 1:12 h, were it the pace
    assert remaining.seconds(5, 7.6) is None
    assert remaining.seconds(31, 10.2) == pytest.approx(0.1 * 569)


def test_a_resumed_run_counts_its_own_steps() -> None:
    remaining = Remaining(600)
    assert remaining.seconds(500, 0.1) is None
    assert remaining.seconds(520, 4.1) == pytest.approx(0.2 * 80)


def test_the_recent_pace_counts() -> None:
    remaining = Remaining(1000)
    for second in range(60):
        remaining.seconds(10 * second, second)
    for second in range(60, 120):
        left = remaining.seconds(590 + second - 59, second)
    assert left == pytest.approx(1000 - 650)


def test_nothing_is_said_of_an_unknown_length_or_where_nothing_moves() -> None:
    assert Remaining(None).seconds(3, 100.0) is None
    stuck = Remaining(10)
    assert [stuck.seconds(4, second) for second in (0.0, 50.0)] == [None, None]
