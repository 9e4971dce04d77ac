"""A run directory keeps whole states of its own run only; signals wait for the end of a step."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from hashlib import sha256

import pytest
import torch
import yaml

from extcon_cli.errors import CheckpointError, UsageError
from extcon_cli.events import Noted, Progress
from extcon_cli.recipe.schema import Recipe
from extcon_cli.training import run_directory
from extcon_cli.training.interrupt import graceful
from extcon_cli.training.run_directory import HEADER, RunDirectory
from extcon_cli.training.run_lock import RunLock
from extcon_cli.training.whole import write_whole

RECIPE = Recipe(seed=3)
INPUTS = {"command": "train", "checkpoint": "abc"}


def run(tmp_path, recipe=RECIPE, inputs=INPUTS) -> RunDirectory:
    return RunDirectory(tmp_path / "out.run", recipe, inputs)


def test_gives_back_what_was_saved(tmp_path):
    first = run(tmp_path)
    assert first.begin(resume=False) is None
    first.save("train", {"x": torch.arange(3), "done": 7, "notes": [{"a": None}]})
    phase, payload = run(tmp_path).begin(resume=True)
    assert phase == "train"
    assert payload["done"] == 7
    assert payload["notes"] == [{"a": None}]
    assert torch.equal(payload["x"], torch.arange(3))


def test_without_resume_it_starts_anew(tmp_path):
    first = run(tmp_path)
    first.begin(resume=False)
    first.save("train", {})
    assert run(tmp_path).begin(resume=False) is None
    assert run(tmp_path).begin(resume=True) is None


def test_what_it_says_of_its_output_outlives_a_run_that_begins_anew_for_want_of_a_state(tmp_path):
    first = run(tmp_path)
    first.begin(resume=False)
    first.announce_output("ab")
    assert run(tmp_path).begin(resume=True) is None
    assert "ab" in (first.path / "output.json").read_text()
    with pytest.raises(UsageError, match="is of another run; repeat that one"):
        run(tmp_path, inputs={"command": "other"}).begin(resume=True)
    run(tmp_path).begin(resume=False)
    assert not (first.path / "output.json").exists()


def test_the_recipe_lies_there_to_read(tmp_path):
    run(tmp_path).begin(resume=False)
    told = yaml.safe_load((tmp_path / "out.run" / "recipe.yaml").read_text())
    assert told == RECIPE.model_dump(mode="json")


@pytest.mark.parametrize(
    ("recipe", "inputs", "what"),
    [
        (Recipe(seed=4), INPUTS, "another recipe"),
        (RECIPE, {**INPUTS, "checkpoint": "xyz"}, "another checkpoint"),
        (RECIPE, {**INPUTS, "command": "prune"}, "another command"),
        (RECIPE, {**INPUTS, "data": "xyz"}, "other data"),
    ],
)
def test_a_run_of_something_else_is_refused(tmp_path, recipe, inputs, what):
    first = run(tmp_path)
    first.begin(resume=False)
    first.save("train", {})
    with pytest.raises(UsageError, match=f"of a run with {what}"):
        run(tmp_path, recipe, inputs).begin(resume=True)


def test_a_broken_or_hostile_state_is_refused(tmp_path):
    first = run(tmp_path)
    first.begin(resume=False)
    trace = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    state = tmp_path / "out.run" / "state.pt"
    torch.save(Bomb(), state)
    bomb = state.read_bytes()
    for content in (HEADER % sha256(bomb).hexdigest().encode() + bomb, bomb, b"", b"half"):
        state.write_bytes(content)
        with pytest.raises(CheckpointError, match="without --resume"):
            run(tmp_path).begin(resume=True)
    assert not trace.exists()


@pytest.mark.parametrize("place", [0.001, 0.3, 0.6, 0.9, 0.999])
def test_one_flipped_bit_of_a_state_is_seen(tmp_path, place):
    first = run(tmp_path)
    first.begin(resume=False)
    first.save("train", {"x": torch.arange(300)})
    state = tmp_path / "out.run" / "state.pt"
    content = bytearray(state.read_bytes())
    content[int(place * len(content))] ^= 1
    state.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        run(tmp_path).begin(resume=True)


def test_a_full_disk_is_told_with_the_path(tmp_path, monkeypatch):
    """torch.save hides it behind an error of its own."""
    first = run(tmp_path)
    first.begin(resume=False)
    first.save("train", {"x": 1})
    full = OSError(errno.ENOSPC, "No space left on device")

    def write(self, data):
        if len(data) > 1000:
            raise full
        return self._file.write(data)

    monkeypatch.setattr(run_directory._Hashed, "write", write)
    with pytest.raises(UsageError, match=r"state\.pt: cannot be written: No space left"):
        first.save("train", {"x": torch.randn(1000)})
    monkeypatch.undo()
    assert run(tmp_path).begin(resume=True).payload == {"x": 1}
    assert not list((tmp_path / "out.run").glob(".*"))


def test_ctrl_c_while_a_state_is_saved_is_no_defect(tmp_path, monkeypatch):
    first = run(tmp_path)
    first.begin(resume=False)

    def write(self, data):
        if len(data) > 1000:
            raise KeyboardInterrupt
        return self._file.write(data)

    monkeypatch.setattr(run_directory._Hashed, "write", write)
    with pytest.raises(KeyboardInterrupt):
        first.save("train", {"x": torch.randn(1000)})
    assert not list((tmp_path / "out.run").glob(".*"))


@pytest.mark.parametrize("act", ["save", "log"])
def test_a_folder_that_vanishes_is_told(tmp_path, act):
    first = run(tmp_path)
    first.begin(resume=False)
    shutil.rmtree(tmp_path / "out.run")
    with pytest.raises(UsageError, match="folder is gone"):
        first.save("train", {}) if act == "save" else first.log(Noted("x"))


def test_what_killed_runs_have_left_goes(tmp_path):
    """Temporary files of processes that are no more; not those of others that are writing."""
    folder = tmp_path / "out.run"
    folder.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead, alive = folder / f".state.pt.{gone.pid}.tmp", folder / ".state.pt.1.tmp"
    for path in (dead, alive):
        path.write_bytes(b"half")
    run(tmp_path).begin(resume=False)
    assert not dead.exists()
    assert alive.exists()


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path):
    folder = tmp_path / "out.run"
    lock = RunLock(folder)
    program = (
        f"from pathlib import Path; from extcon_cli.training.run_lock import RunLock; RunLock(Path({str(folder)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"in use by process {os.getpid()} on " in done.stderr
    lock.withdraw()
    assert not folder.exists()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    RunLock(folder)  # its process has ended, and its lock with it


def test_a_lock_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UsageError, match=r"out\.run: cannot be written: File too large"):
        RunLock(tmp_path / "out.run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["threads.json", "state.pt"])
def test_what_is_nested_too_deeply_is_damaged(tmp_path, name):
    first = run(tmp_path)
    first.begin(resume=False)
    (first.path / name).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is damaged") if name == "state.pt" else nullcontext():
        run(tmp_path).begin(resume=True)


def test_events_are_lines_even_after_a_kill(tmp_path):
    first = run(tmp_path)
    first.begin(resume=False)
    first.log(Noted("one"))
    log = tmp_path / "out.run" / "events.jsonl"
    log.write_bytes(log.read_bytes() + b'{"event": "Pro')
    first.log(Progress("train", 3, {"loss": 0.5}))
    lines = log.read_text().splitlines()
    assert json.loads(lines[0]) == {"event": "Noted", "message": "one", "warning": False}
    assert json.loads(lines[-1])["metrics"] == {"loss": 0.5}


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        RunDirectory(tmp_path / "file" / "out.run", RECIPE, INPUTS).begin(resume=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_the_second_does_not(number):
    before = signal.getsignal(number)
    with graceful() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_nothing_is_trained_the_first_signal_does_not_wait(number):
    with graceful() as stop, stop.at_once(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    with graceful() as stop:
        signal.raise_signal(number)  # waits, and is heard where the wait is over
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            pytest.fail("it began")
    with graceful(patience=5) as stop, stop.at_once():  # one of several processes
        signal.raise_signal(number)
        assert stop.requested


def test_a_lock_of_what_keeps_no_state_leaves_no_trace(tmp_path):
    folder = tmp_path / "o.run"
    with RunLock(folder):
        assert (folder / "lock").exists()
    assert not folder.exists()
    folder.mkdir()
    (folder / "state.pt").touch()
    with RunLock(folder):
        pass
    assert [path.name for path in folder.iterdir()] == ["state.pt"]
