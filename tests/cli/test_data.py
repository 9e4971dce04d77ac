"""What a user is told of data, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Extcon

RECIPE = """
model: {arch: "net.py:make", input_shape: [2]}
data: {dataset: csv, root: %s}
train: {epochs: 2}
"""
NET = """
import torch

def make():
    return torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
"""
CAUTION = "the test data are a random 20% of mine.csv, which has no test part: rows your model may have been trained on"


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A table alone, and the same with a test part of its own."""
    (tmp_path / "net.py").write_text(NET)
    rows = [f"{i % 7},{i % 5},{i % 2}\n" for i in range(60)]
    (tmp_path / "mine.csv").write_text("a,b,label\n" + "".join(rows))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.csv").write_text("a,b,label\n" + "".join(rows[:40]))
    (tmp_path / "own" / "test.csv").write_text("a,b,label\n" + "".join(rows[40:]))
    for name in ("mine.csv", "own"):
        (tmp_path / f"{name}.yaml").write_text(RECIPE % name)
    return tmp_path


def test_rows_that_a_model_may_have_seen_are_said_wherever_figures_are(extcon: Extcon, tables: Path) -> None:
    made = extcon("train", "--recipe", "mine.csv.yaml", "--out", "m.safetensors", "--json")
    assert made.code == 0, made.err
    assert made.document["test_caution"] is None  # extcon itself did not train on them
    assert "may have been" not in made.err
    import torch

    from extcon_cli import load

    torch.save(load(tables / "m.safetensors", trust_code=True).state_dict(), tables / "foreign.pt")
    args = ("evaluate", "foreign.pt", "--recipe", "mine.csv.yaml")
    assert CAUTION in (said := extcon(*args)).out
    assert CAUTION in said.err
    assert extcon(*args, "--json").document["test_caution"] == CAUTION
    assert extcon("evaluate", "foreign.pt", "--recipe", "own.yaml", "--json").document["test_caution"] is None
    pruned = extcon(
        "prune", "foreign.pt", "--recipe", "mine.csv.yaml", "--report", "r.md", "--report", "r.html",
        "--set", "prune.bifurcate.epochs=1", "--set", "prune.finetune.epochs=1", "--out", "p.safetensors", "--json",
    )  # fmt: skip
    assert pruned.document["test_caution"] == CAUTION
    for name in ("r.md", "r.html"):
        assert CAUTION in (tables / name).read_text()
    assert json.loads(pruned.out)["after"]["metrics"]
