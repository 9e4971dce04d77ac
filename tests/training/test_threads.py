"""How many threads: one for small models, the fastest for others, fewer where steps slow down; what is set stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from extcon_cli.recipe.schema import Recipe
from extcon_cli.training import threads
from extcon_cli.training.run_directory import RunDirectory
from extcon_cli.training.threads import Threads, choose, fastest, multiplications

Takes = Callable[[dict[int, float]], Callable[[], None]]


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of four cores, of which nobody has set a number."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "DEFAULT", 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Takes:
    """Makes a step that takes so many seconds of a clock of its own, by the number of threads."""
    now = 0.0
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now)

    def step(seconds: dict[int, float]) -> Callable[[], None]:
        def go() -> None:
            nonlocal now
            now += seconds[torch.get_num_threads()]

        return go

    return step


def test_counts_the_linear_maps() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert multiplications(net, torch.zeros(2, 3, 4, 4), 10) == 10 * (16 * 8 * 27 + 8 * 16 * 5)


def test_a_small_model_gets_one_thread_without_a_measurement() -> None:
    def step() -> None:
        raise AssertionError("was measured")

    assert choose(nn.Linear(4, 4), torch.zeros(2, 4), 64, step).number == 1


@pytest.mark.parametrize(
    ("seconds", "number"),
    [
        ({4: 0.01, 2: 0.02, 1: 0.04}, 4),
        ({4: 0.02, 2: 0.01, 1: 0.03}, 2),
        ({4: 0.01, 2: 0.01, 1: 0.03}, 2),  # two more gain nothing
        ({4: 0.03, 2: 0.02, 1: 0.01}, 1),
    ],
)
def test_the_fastest_is_found_and_torch_left_as_it_was(takes: Takes, seconds: dict[int, float], number: int) -> None:
    assert fastest(takes(seconds), 4) == number
    assert torch.get_num_threads() == 4


def test_a_large_model_is_measured(takes: Takes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SMALL", 1)
    chosen = choose(nn.Linear(4, 4), torch.zeros(2, 4), 64, takes({4: 0.03, 2: 0.01, 1: 0.03}))
    assert chosen.number == 2
    assert not chosen.fixed


def test_a_quota_of_the_container_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.Path, "read_text", lambda path: "150000 100000\n")
    assert threads.available() == 2
    monkeypatch.setattr(threads.Path, "read_text", lambda path: "max 100000\n")
    assert threads.available() == 4


def watched(found: Threads, seconds: float) -> list[str]:
    """What is said in one window of steps of this time."""
    return [said for _ in range(threads.WINDOW) if (said := found.watch(seconds))]


@pytest.fixture
def four() -> Threads:
    found = Threads(4, "", fixed=False)
    found.apply()
    found.new_phase()
    return found


def test_slow_steps_try_half_the_threads_and_stay_where_that_helps(four: Threads) -> None:
    assert watched(four, 1.0) == watched(four, 1.5) == []
    assert "2 threads" in watched(four, 4.0)[0]
    assert torch.get_num_threads() == 2
    assert "going on with 2 threads" in watched(four, 1.5)[0]
    assert torch.get_num_threads() == 2


def test_where_fewer_do_not_help_it_goes_back_and_waits_longer_each_time(four: Threads) -> None:
    watched(four, 1.0)
    numbers = []
    for _ in range(10):
        watched(four, 4.0)
        numbers.append(torch.get_num_threads())
    assert numbers == [2, 4, 4, 2, 4, 4, 4, 4, 2, 4]


def test_what_the_user_has_set_does_not_change() -> None:
    found = Threads(4, "as set")
    assert not [text for _ in range(9) for text in (watched(found, 1.0), watched(found, 9.0)) if text]


def test_given_by_the_environment_or_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.given() is None
    torch.set_num_threads(3)
    assert threads.given() == 3
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads.given() == 4


def test_a_run_that_goes_on_computes_with_the_number_that_it_had(tmp_path: Path) -> None:
    """Before it has kept a state, and after; another run is asked nothing."""

    def directory(seed: int = 0) -> RunDirectory:
        return RunDirectory(tmp_path / "out.run", Recipe(seed=seed), {})

    first = directory()
    first.begin(resume=False)
    first.begin_threads(Threads(3, ""))
    assert torch.get_num_threads() == 3

    second = directory()
    second.begin(resume=True)
    assert second.kept_threads == 3
    other = directory(seed=1)
    other.begin(resume=True)
    assert other.kept_threads is None

    first.begin_threads(Threads(3, ""))
    torch.set_num_threads(2)
    first.save("train", {})
    second = directory()
    second.begin(resume=True)
    assert second.kept_threads == 2
