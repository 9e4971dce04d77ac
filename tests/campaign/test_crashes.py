"""Runs that are killed at every fsync and rename, and at random: gone on with, they give the same bytes.

A killed run is a fork of this process that ends at once, as by kill -9, before or after one of its calls, or when this
process kills it. The default run takes a few of them; `pytest -m slow tests/campaign` takes all.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy
import pytest

from extcon_cli.cli.checks import check_output
from extcon_cli.errors import UsageError
from extcon_cli.pipelines.bypass import bypass
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.training.run_directory import RunDirectory

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CALLS = ("fsync", "replace")
KILLED = 137
RANDOM_KILLS = 40
"""Of each command, in the campaign of full size."""


@dataclass(frozen=True)
class Command:
    """A run of a command in a folder, as the command line starts it."""

    name: str
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / f"{self.name}.safetensors"

    def __call__(self, *, resume: bool) -> None:
        made, checkpoint, output = recipe(self.folder.parent), self.folder.parent / "start.safetensors", self.output
        force = check_output(output, force=False, resume=resume, suffixes=[".safetensors"])
        if self.name == "train":
            train(made, checkpoint=None, output=output, device="cpu", resume=resume, force=force, keep_run=False)
        elif self.name == "prune":
            prune(
                checkpoint, made, output=output, device="cpu", resume=resume, force=force, keep_run=False, latency=False
            )
        else:
            bypass(
                checkpoint, made, output=output, device="cpu", resume=resume, force=force, keep_run=False,
                ignore_probe=True,
            )  # fmt: skip


@cache
def recipe(folder: Path) -> Recipe:
    """A few steps on a few arrays."""
    if not (folder / "data.npz").exists():
        numbers = numpy.random.default_rng(0)
        sizes = {"x_train": (60, 4), "x_test": (20, 4)}
        made = {name: numbers.normal(size=size).astype("float32") for name, size in sizes.items()}
        labels = {"y_train": numpy.arange(60) % 3, "y_test": numpy.arange(20) % 3}
        numpy.savez(folder / "data.npz", **made, **labels)
    short = {"steps": 2, "epochs": None}
    return from_dict(
        {
            "model": {
                "arch": "zoo:mlp",
                "kwargs": {"in_features": 4, "widths": [6, 6], "num_classes": 3},
                "input_shape": [4],
            },
            "data": {"dataset": "arrays", "root": str(folder / "data.npz"), "batch_size": 10},
            "train": {"steps": 4, "epochs": None, "optimizer": {"lr": 0.1}},
            "prune": {"ratio": 0.4, "bifurcate": short, "finetune": short},
            "bypass": {
                "opt_1": short, "opt_2": short, "train_3": short, "probe": {"steps": 8}, "extensions": ["diag"],
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data and a checkpoint, in which a run keeps its state after every step."""
    folder = tmp_path_factory.mktemp("crashes")
    train(recipe(folder), checkpoint=None, output=folder / "start.safetensors", device="cpu", keep_run=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "due", lambda self: True)
        yield folder


def in_fork(action: Callable[[], object]) -> int:
    """Run it in a fork of this process: the id of the fork, which ends with 0, or 1 after an error."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """How a fork has ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def counted(command: Command) -> int:
    """How many of the calls a whole run makes; its output is there afterwards."""
    number = 0
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            call = getattr(os, name)

            def counting(*args: object, call: Callable[..., object] = call) -> object:
                nonlocal number
                number += 1
                return call(*args)

            patch.setattr(os, name, counting)
        command(resume=False)
    return number


def killed_at(command: Command, place: int, *, after: bool, resume: bool = False) -> int:
    """Run it in a fork that ends before or after its `place`-th call."""

    def action() -> None:
        left = [place]
        for name in CALLS:
            call = getattr(os, name)

            def ending(*args: object, call: Callable[..., object] = call) -> object:
                left[0] -= 1
                if left[0] == 0 and not after:
                    os._exit(KILLED)
                found = call(*args)
                if left[0] == 0:
                    os._exit(KILLED)
                return found

            setattr(os, name, ending)
        command(resume=resume)

    return ended(in_fork(action))


def assert_goes_on(command: Command, wanted: bytes) -> None:
    """To the same bytes; where they are there already, that is refused or done again."""
    over = command.output.exists() and not Path(f"{command.output}.run", "output.json").exists()
    with pytest.raises(UsageError, match="exists already") if over else nullcontext():
        command(resume=True)
    assert command.output.read_bytes() == wanted
    left = sorted(path.name for path in command.folder.iterdir())
    assert left in ([command.output.name], [command.output.name, f"{command.output.name}.run"])


def campaign(started: Path, name: str, every: int, kills: int) -> tuple[int, int]:
    """Kill one command at every so many calls, before and after, and so often at random: killed and tried."""
    whole = Command(name, started / f"{name}.whole")
    whole.folder.mkdir(exist_ok=True)
    whole.output.unlink(missing_ok=True)
    began = time.monotonic()
    calls = counted(whole)
    took, wanted = time.monotonic() - began, whole.output.read_bytes()
    killed = tried = 0
    for number, place in enumerate(range(1, calls + 1, every)):
        for after in (False, True) if every == 1 else (bool(number % 2),):
            command = fresh(started, name)
            assert killed_at(command, place, after=after) == KILLED
            assert_goes_on(command, wanted)
            killed, tried = killed + 1, tried + 1
    draw = random.Random(0)
    for _ in range(kills):
        command = fresh(started, name)
        for again in (False, True):  # the run that goes on is killed as well
            process = in_fork(lambda command=command, again=again: command(resume=again))  # type: ignore[misc]
            time.sleep(draw.uniform(0, took))
            os.kill(process, signal.SIGKILL)
            killed, tried = killed + (ended(process) == -signal.SIGKILL), tried + 1
        assert_goes_on(command, wanted)
    return killed, tried


def fresh(started: Path, name: str) -> Command:
    """The command in a folder of its own."""
    command = Command(name, started / f"{name}.{len(list(started.iterdir()))}")
    command.folder.mkdir()
    return command


def test_killed_at_some_calls(started: Path) -> None:
    assert campaign(started, "train", every=9, kills=1)[0] >= 3


def test_killed_while_its_folder_is_taken_away_and_again_after_that(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run begins anew, and still knows its own output."""
    command = fresh(started, "train")
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "clear", lambda self: (self.path / "state.pt").unlink())
        command(resume=False)
    wanted = command.output.read_bytes()
    assert killed_at(command, 12, after=True, resume=True) == KILLED
    assert_goes_on(command, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "prune", "bypass"])
def test_killed_at_every_call_and_at_random(started: Path, name: str) -> None:
    killed, tried = campaign(started, name, every=1, kills=RANDOM_KILLS)
    print(f"{name}: {killed} of {tried} runs were killed, each went on to the same bytes")  # noqa: T201
    assert killed > tried // 2


def test_a_state_that_is_not_whole_would_be_found(started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness notices a run that goes on from elsewhere."""
    whole, command = fresh(started, "train"), fresh(started, "train")
    whole(resume=False)
    assert killed_at(command, 12, after=True) == KILLED
    monkeypatch.setattr(RunDirectory, "load", lambda self: None)
    other = recipe(started).model_copy(update={"seed": 1})
    monkeypatch.setitem(globals(), "recipe", lambda folder: other)
    with pytest.raises(AssertionError):
        assert_goes_on(command, whole.output.read_bytes())
