"""A disk that fails at every write in turn, files that may not grow, a clock that jumps: a line, or the same bytes.

The default run takes some of the faults; `pytest -m slow tests/campaign` takes all.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extcon_cli.cli.checks import check_output
from extcon_cli.errors import UsageError
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.training.run_directory import RunDirectory

FAULTS = (errno.ENOSPC, errno.EIO, errno.EFBIG)
CALLS = ("fsync", "replace")
RECIPE = from_dict(
    {
        "model": {"arch": "zoo:mlp", "kwargs": {"in_features": 64, "widths": [4]}, "input_shape": [64]},
        "data": {"dataset": "digits", "batch_size": 400},
        "train": {"steps": 3, "epochs": None, "optimizer": {"lr": 0.1}},
    }
)


def run(output: Path, *, resume: bool = False) -> bytes:
    """A short training that keeps its state after every step."""
    force = check_output(output, force=False, resume=resume, suffixes=[".safetensors"])
    train(RECIPE, checkpoint=None, output=output, device="cpu", resume=resume, force=force, keep_run=False)
    return output.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """The bytes of a run to which nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "due", lambda self: True)
        yield run(tmp_path_factory.mktemp("whole") / "a.safetensors")


@contextmanager
def failing(place: int, code: int) -> Iterator[list[int]]:
    """Within, the `place`-th call that brings something onto the disk fails; gives how many there were."""
    number = [0]
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            call = getattr(os, name)

            def act(*args: object, call: Callable[..., object] = call) -> object:
                number[0] += 1
                if number[0] == place:
                    raise OSError(code, os.strerror(code))
                return call(*args)

            patch.setattr(os, name, act)
        yield number


def campaign(folder: Path, whole: bytes, every: int) -> int:
    """Each fault at every so many calls: refused with the path, nothing half-written, then gone on with."""
    with failing(0, 0) as calls:
        assert run(folder / "counted.safetensors") == whole
    tried = 0
    for place, code in zip(range(1, calls[0] + 1, every), itertools.cycle(FAULTS), strict=False):
        for fault in FAULTS if every == 1 else (code,):
            output = folder / f"{place}.{fault}.safetensors"
            with failing(place, fault), pytest.raises(UsageError, match=r"\.safetensors(\.run)?.*cannot be written"):
                run(output)
            assert not list(folder.rglob("*.tmp"))
            assert run(output, resume=True) == whole
            tried += 1
    return tried


def test_some_faults_of_the_disk(tmp_path: Path, whole: bytes) -> None:
    assert campaign(tmp_path, whole, every=7) >= 3


@pytest.mark.slow
def test_every_fault_of_the_disk(tmp_path: Path, whole: bytes) -> None:
    print(f"{campaign(tmp_path, whole, every=1)} faults")  # noqa: T201


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("cases", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_files_that_may_not_grow(tmp_path: Path, whole: bytes, cases: int) -> None:
    """A real limit of the system: a state or an output breaks off anywhere in it."""
    draw, codes = random.Random(1), []
    for case in range(cases):
        output, limit = tmp_path / f"{case}.safetensors", int(draw.uniform(0, 1.5 * len(whole)))
        process = os.fork()
        if not process:
            code = 1
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                code = 0 if run(output) else 1
            except UsageError as error:
                code = UsageError.exit_code if str(tmp_path) in str(error) else 1
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        assert not output.exists() or output.read_bytes() == whole
        if not output.exists():
            assert run(output, resume=True) == whole
    assert set(codes) <= {0, 2}
    assert 2 in codes


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    for name in ("time", "monotonic", "perf_counter"):
        clock, calls = getattr(time, name), itertools.count()
        monkeypatch.setattr(time, name, lambda clock=clock, calls=calls: clock() + (next(calls) % 5 == 4) * jump)
    assert run(tmp_path / "a.safetensors") == whole
