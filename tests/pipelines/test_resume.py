"""What a run that goes on may not do: work on other data, overwrite what somebody else wrote, run beside another."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from extcon_cli.cli.checks import check_output
from extcon_cli.errors import Interrupted, UsageError
from extcon_cli.events import Event, Progress
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe


def recipe(folder: Path, seed: int = 0) -> Recipe:
    """A few steps on a file of arrays, whose content depends on the seed."""
    numbers = numpy.random.default_rng(seed)
    arrays = {"x_train": (60, 4), "x_test": (20, 4)}
    labels = {"y_train": numpy.arange(60) % 3, "y_test": numpy.arange(20) % 3}
    made = {name: numbers.normal(size=size).astype("float32") for name, size in arrays.items()}
    numpy.savez(folder / "data.npz", **made, **labels)
    return from_dict(
        {
            "model": {
                "arch": "zoo:mlp",
                "kwargs": {"in_features": 4, "widths": [8], "num_classes": 3},
                "input_shape": [4],
            },
            "data": {"dataset": "arrays", "root": str(folder / "data.npz"), "batch_size": 10},
            "train": {"steps": 8, "optimizer": {"lr": 0.1}},
        }
    )


def test_changed_data_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "net.safetensors"
    wanted = recipe(tmp_path)

    def stop(event: Event) -> None:
        if isinstance(event, Progress):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(wanted, checkpoint=None, output=output, device="cpu", emit=stop)
    recipe(tmp_path, seed=1)
    with pytest.raises(UsageError, match="is of a run with other data"):
        train(wanted, checkpoint=None, output=output, device="cpu", resume=True)
    recipe(tmp_path)
    train(wanted, checkpoint=None, output=output, device="cpu", resume=True)


def test_a_resumed_run_overwrites_its_own_output_only(tmp_path: Path) -> None:
    output = tmp_path / "net.safetensors"
    train(recipe(tmp_path), checkpoint=None, output=output, device="cpu")
    assert check_output(output, force=False, resume=True, suffixes=[".safetensors"])
    with pytest.raises(UsageError, match="exists already"):
        check_output(output, force=False, resume=False, suffixes=[".safetensors"])
    output.write_bytes(b"somebody else's")
    with pytest.raises(UsageError, match="is not what the run wrote"):
        check_output(output, force=False, resume=True, suffixes=[".safetensors"])
    assert check_output(output, force=True, resume=True, suffixes=[".safetensors"])


def test_a_plain_output_is_known_too(tmp_path: Path) -> None:
    output = tmp_path / "net.pt"
    train(recipe(tmp_path), checkpoint=None, output=output, device="cpu")
    assert check_output(output, force=False, resume=True, suffixes=[".pt"])


def test_two_runs_of_one_output(tmp_path: Path) -> None:
    output = tmp_path / "net.safetensors"
    program = (
        "import sys, time; from pathlib import Path; from extcon_cli.training.run_lock import RunLock\n"
        f"lock = RunLock(Path({str(output)!r} + '.run')); print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(UsageError, match=f"in use by process {first.pid} on "):
            train(recipe(tmp_path), checkpoint=None, output=output, device="cpu")
    finally:
        first.kill()
        first.wait()
    train(recipe(tmp_path), checkpoint=None, output=output, device="cpu")  # a lock ends with its process
