"""How a command ends where its streams, its encoding, its disk or a signal go against it: one line, the right code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from .conftest import Extcon

SHORT = ("--recipe", "train/digits_resnet", "--set", "train.epochs=null", "--set", "train.steps=2")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start `extcon ARGS` in the test's folder, by a shell that does `first` and redirects its streams."""

    def begin(*args: str, first: str = "", redirect: str = "") -> subprocess.Popen[str]:
        inherited = {k: v for k, v in os.environ.items() if k not in ("CI", "GITHUB_STEP_SUMMARY", "EXTCON_DEBUG")}
        return subprocess.Popen(
            ["sh", "-c", f'{first} exec "$@" {redirect}', "sh", sys.executable, "-m", "extcon_cli", *args],
            cwd=tmp_path,
            env={**inherited, "COLUMNS": "100"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """A checkpoint with dead channels: its removal takes no data."""
    path = tmp_path / "masked.pt"
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    with torch.no_grad():
        net[0].weight[:3], net[0].bias[:3] = 0, 0
    torch.save(net.state_dict(), path)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))\n"
    )
    (tmp_path / "masked.yaml").write_text("model: {arch: 'nets.py:net', input_shape: [4]}\n")
    return path


CUT = ("prune", "masked.pt", "--already-zero", "--trust-code")


def test_nobody_reads_stderr(start: Start, masked: Path) -> None:
    done = start(*CUT, redirect="2>&1 | head -n 1")
    out, _ = done.communicate(timeout=120)
    assert len(out.splitlines()) == 1
    assert (masked.parent / "masked.pruned.safetensors").is_file()


def test_all_streams_are_closed(start: Start, masked: Path) -> None:
    done = start(*CUT, redirect="<&- >&- 2>&-")
    done.communicate(timeout=120)
    assert done.returncode == 0
    assert (masked.parent / "masked.pruned.safetensors").stat().st_size > 300


def test_stderr_is_full() -> None:
    program = "import sys; from extcon_cli.cli import streams; streams.prepare(); print('x' * 99999, file=sys.stderr)"
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>/dev/full', "sh", sys.executable, "-c", program], check=False)
    assert done.returncode == 0


def test_a_result_that_cannot_be_written_is_an_error(start: Start) -> None:
    done = start("schema", "prune", redirect=">/dev/full")
    _, err = done.communicate(timeout=120)
    assert done.returncode == 2
    assert err == "extcon: error: cannot write: No space left on device: stdout\n"


def test_signs_that_the_encoding_lacks_and_markup_in_a_path(extcon: Extcon, masked: Path) -> None:
    (masked.parent / "[").mkdir()
    done = extcon(*CUT, "--out", "[/b]o[red].safetensors", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.code == 0, done.err
    assert "#" in done.out
    assert "written to [/b]o[red].safetensors" in done.out


def test_no_room_for_the_state(start: Start, tmp_path: Path) -> None:
    """A limit on the size of files is like a full disk: 50 kB are enough for the recipe, not for the state."""
    done = start("train", *SHORT, "--out", "o.safetensors", first="ulimit -f 100;")
    _, err = done.communicate(timeout=120)
    assert done.returncode == 2, err
    assert err.splitlines()[-1] == "extcon: error: o.safetensors.run/state.pt: cannot be written: File too large"
    assert not list(tmp_path.glob("*.run/.*"))


def test_a_signal_before_training_begins(start: Start, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\ndef net():\n    pathlib.Path('here').touch()\n    time.sleep(60)\n"
    )
    (tmp_path / "slow.yaml").write_text(
        "model: {arch: 'slow.py:net', input_shape: [1, 8, 8]}\ndata: {dataset: digits}\n"
    )
    done = start("train", "--recipe", "slow.yaml", "--out", "o.safetensors")
    while not (tmp_path / "here").exists() and done.poll() is None:
        time.sleep(0.05)
    done.send_signal(signal.SIGTERM)
    _, err = done.communicate(timeout=120)
    assert done.returncode == 130, err
    assert err.splitlines()[-1].startswith("extcon: error: interrupted")
    assert not (tmp_path / "o.safetensors.run").exists()


def test_a_signal_while_the_process_gets_ready(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """It comes before any command begins; as to all others, one line answers."""
    from extcon_cli.cli import app

    def signalled(debugging: bool) -> None:
        signal.raise_signal(signal.SIGTERM)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(app.streams, "prepare", lambda: None)
    monkeypatch.setattr(app, "_prepare", signalled)
    try:
        with pytest.raises(SystemExit) as end:
            app.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert end.value.code == 130
    assert capsys.readouterr().err == "extcon: error: interrupted\n"


@pytest.mark.parametrize("device", ["meta", "hpu", "privateuseone", "nonsense"])
def test_devices_that_do_not_compute(device: str) -> None:
    from extcon_cli.errors import UsageError
    from extcon_cli.training.device import create_accelerator

    with pytest.raises(UsageError, match=f"device '{device}'"):
        create_accelerator(device)
