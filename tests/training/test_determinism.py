"""`--deterministic`: torch's own switch while a run goes on, and a refusal of what cannot be repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from extcon_cli.errors import UsageError
from extcon_cli.events import Event, Noted
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.schema import Recipe
from extcon_cli.training.determinism import VARIABLE, deterministic


def test_switch_holds_within_and_is_put_back() -> None:
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_cannot_be_repeated_is_refused() -> None:
    with pytest.raises(UsageError, match=r"put_.*Go without it"), deterministic(True):
        torch.zeros(3).put_(torch.tensor([1, 1]), torch.ones(2))
    with deterministic(False):
        torch.zeros(3).put_(torch.tensor([1, 1]), torch.ones(2))


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="another"), deterministic(True):
        raise RuntimeError("another")


def test_a_run_says_and_records_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    recipe = Recipe.model_validate(
        {
            "model": {"arch": "zoo:mlp", "kwargs": {"in_features": 64, "widths": [4]}, "input_shape": [64]},
            "data": {"dataset": "digits"},
            "train": {"steps": 1, "epochs": None},
        }
    )
    heard: list[Event] = []
    files = []
    for name in ("a", "b"):
        result = train(recipe, checkpoint=None, output=tmp_path / f"{name}.safetensors", emit=heard.append)
        files.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert result.run.deterministic
    assert any(isinstance(event, Noted) and event.message.startswith("deterministic") for event in heard)
    assert files[0] == files[1]
