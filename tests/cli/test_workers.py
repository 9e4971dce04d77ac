"""Worker processes through the real command line: quiet, the same results as without them, and gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from .conftest import Done, Extcon

MINE = """
import random

import torch
from torch.utils.data import Dataset


class Noisy(Dataset):
    classes = ["odd", "even"]

    def __len__(self):
        return 48

    def __getitem__(self, index):
        return torch.randn(1, 8, 8) + random.random() + index % 2, index % 2


def sets():
    return Noisy(), Noisy()

"""
RECIPE = """
model: {arch: "zoo:digits_resnet", kwargs: {num_classes: 2}}
data: {dataset: "mine.py:sets", batch_size: 8, workers: 2}
train: {epochs: 2, optimizer: {lr: 0.01}}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes in train/ and val/."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    for part in ("train", "val"):
        for label, grey in (("dark", 10), ("light", 240)):
            (tmp_path / "pictures" / part / label).mkdir(parents=True)
            for i in range(6):
                Image.new("L", (12, 12), grey).save(tmp_path / "pictures" / part / label / f"{i}.png")
    return tmp_path / "pictures"


def train(extcon: Extcon, *settings: str) -> Done:
    given = [word for setting in settings for word in ("--set", setting)]
    return extcon("train", "--recipe", "r.yaml", *given, "--out", "out.pt", "--quiet")


def test_a_function_of_the_user_gives_the_same_with_workers(extcon: Extcon, mine: Path) -> None:
    results = []
    for workers in (0, 2):
        done = train(extcon, f"data.workers={workers}")
        assert (done.code, done.err) == (0, "")
        results.append((mine / "out.pt").read_bytes())
        (mine / "out.pt").unlink()
    assert results[0] == results[1]


def test_a_picture_that_cannot_be_read_is_named(extcon: Extcon, tmp_path: Path, pictures: Path) -> None:
    whole = (pictures / "val" / "dark" / "1.png").read_bytes()
    (pictures / "val" / "dark" / "3.png").write_bytes(whole[: len(whole) // 2])
    place = ("data.dataset=image_folder", "data.root=pictures", "data.validation=0")
    done = train(extcon, *place, "model.input_shape=[1,8,8]")
    assert done.code == 3
    assert done.error.startswith("pictures/val/dark/3.png: cannot be read: ")
    assert done.err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a process group")
def test_ctrl_c_is_quiet(mine: Path) -> None:
    args = ["train", "--recipe", "r.yaml", "--set", "train.epochs=10000", "--out", "out.pt"]
    run = subprocess.Popen(
        [sys.executable, "-m", "extcon_cli", *args],
        cwd=mine, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert run.stderr is not None
    lines = []
    for line in run.stderr:
        lines.append(line)
        if len(lines) == 2:
            time.sleep(1)
            os.killpg(run.pid, signal.SIGINT)  # as a terminal does it: to the workers too
    assert run.wait(60) == 130
    assert "Traceback" not in "".join(lines)
    assert lines[-1].startswith("extcon: error: interrupted; the state is kept in out.pt.run")
    assert gone(run.pid)


def gone(group: int, seconds: float = 10) -> bool:
    """Does the last process of the group end within this time?"""
    for _ in range(round(seconds / 0.1)):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
