"""The number of threads: chosen without a setting, `--threads`, and how OpenMP's threads wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from extcon_cli.cli import app

from .conftest import Extcon

SHORT = ("--recipe", "train/digits_resnet", "--set", "train.steps=2", "--set", "train.epochs=null", "--json")


def test_a_small_model_gets_one_thread_and_says_so(extcon: Extcon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = extcon("train", *SHORT, "--out", "a.safetensors")
    assert done.document["threads"] == 1
    assert (os.cpu_count() or 1) == 1 or "1 thread: the model is small" in done.err


def test_the_option_wins_over_the_environment(extcon: Extcon, tmp_path: Path) -> None:
    done = extcon("train", *SHORT, "--out", "a.safetensors", "--threads", "2", OMP_NUM_THREADS="1")
    assert done.document["threads"] == 2
    assert "2 threads: as set" in done.err


@pytest.mark.parametrize("number", ["0", "two"])
def test_a_number_that_cannot_be(extcon: Extcon, number: str) -> None:
    done = extcon("train", "--recipe", "train/digits_resnet", "--threads", number)
    assert done.code == 2
    assert "threads" in done.error or "whole number" in done.error


def test_waiting_threads_sleep_unless_the_user_says_how_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    app._sleep_while_waiting()
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that it is put back after the test
    monkeypatch.delenv("OMP_WAIT_POLICY")
    app._sleep_while_waiting()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
