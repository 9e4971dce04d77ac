"""`evaluate` gives the figures that a few lines of torch give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from extcon_cli.data.datasets import open_data
from extcon_cli.errors import GateError, UsageError
from extcon_cli.pipelines.evaluate import evaluate
from extcon_cli.recipe.load import load

SAMPLES = Path(__file__).parents[2] / "sample_models"
RECIPE = load(SAMPLES / "digits_resnet.yaml")


def test_the_sample_model_is_as_good_as_its_readme_says():
    result = evaluate(SAMPLES / "digits_resnet.pt", RECIPE, device="cpu")
    assert result.samples == 360
    assert result.metrics["accuracy"] == pytest.approx(359 / 360, abs=1 / 360)
    assert "99.7 % (359 of 360" in (SAMPLES / "README.md").read_text()


def test_equals_a_few_lines_of_torch():
    import extcon_cli

    result = evaluate(SAMPLES / "digits_resnet.pt", RECIPE, device="cpu")
    data = open_data(RECIPE.data, "classification")
    assert data.normalize is not None
    with np.load(Path(extcon_cli.__file__).parent / "data" / "digits.npz") as file:
        x, y = torch.from_numpy(file["x_test"])[:, None], torch.from_numpy(file["y_test"]).long()
    with torch.no_grad():
        model = extcon_cli.load(SAMPLES / "digits_resnet.pt")
        logits = model((x / 255 - data.normalize.mean[0]) / data.normalize.std[0])
    assert result.metrics["accuracy"] == pytest.approx(float((logits.argmax(1) == y).float().mean()))
    assert result.metrics["loss"] == pytest.approx(float(functional.cross_entropy(logits, y)), rel=1e-5)


def test_the_batch_size_changes_nothing():
    small = RECIPE.model_copy(update={"data": RECIPE.data.model_copy(update={"eval_batch_size": 7})})
    first, second = (evaluate(SAMPLES / "digits_resnet.pt", r, device="cpu").metrics for r in (RECIPE, small))
    assert first == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize(("split", "samples"), [("train", 1293), ("validation", 144)])
def test_other_splits(split, samples):
    result = evaluate(SAMPLES / "digits_resnet.pt", RECIPE, split=split, device="cpu")
    assert result.samples == samples
    assert result.metrics["accuracy"] > 0.97


def test_an_unknown_split():
    with pytest.raises(UsageError, match="one of test, validation, train"):
        evaluate(SAMPLES / "digits_resnet.pt", RECIPE, split="tset", device="cpu")


def test_a_model_whose_outputs_are_not_finite(tmp_path):
    state = torch.load(SAMPLES / "digits_resnet.pt", weights_only=True)
    state["fc.bias"][0] = torch.nan
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(GateError, match="test data are not finite"):
        evaluate(tmp_path / "net.pt", RECIPE, device="cpu")
