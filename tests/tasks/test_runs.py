"""Every command on a batch that is no single tensor of floats, and on a task of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import extcon_cli
from extcon_cli.checkpoint.trust import Trust
from extcon_cli.errors import GateError, UsageError
from extcon_cli.pipelines.already_zero import already_zero
from extcon_cli.pipelines.bypass import bypass
from extcon_cli.pipelines.evaluate import evaluate
from extcon_cli.pipelines.inspect import inspect
from extcon_cli.pipelines.prune import prune
from extcon_cli.pipelines.train import train
from extcon_cli.pipelines.verify import verify
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import Recipe

MADE = Path(__file__).with_name("made.py")
TRUST = Trust(code=True)
SHORT = {"steps": 4, "optimizer": {"name": "adamw"}}


def recipe(**others: object) -> Recipe:
    values = {
        "model": {"arch": f"{MADE}:Tiny"},
        "data": {"dataset": f"{MADE}:text", "batch_size": 16, "workers": 0},
        "task": "causal_lm",
        "train": {"steps": 60, "optimizer": {"name": "adamw", "lr": 0.02}},
        "prune": {"ratio": 0.5, "score": {"batches": 2}, "bifurcate": SHORT, "finetune": SHORT},
        "bypass": {
            "extensions": ["diag", "widen"], "controls": [], "probe": {"steps": 8}, "optimizer": {"name": "adamw"},
            "opt_1": {"steps": 2}, "opt_2": {"steps": 2}, "train_3": {"steps": 2},
        },
    }  # fmt: skip
    return from_dict(values | others)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "lm.safetensors"
    done = train(recipe(), checkpoint=None, output=path, device="cpu", trust=TRUST)
    assert done.metrics["perplexity"] == pytest.approx(torch.tensor(done.metrics["loss"]).exp().item(), rel=1e-4)
    assert done.metrics["perplexity"] < 3  # 16 by chance
    return path


def test_a_language_model_is_pruned_measured_and_verified(model, tmp_path):
    small = tmp_path / "small.safetensors"
    done = prune(model, recipe(), output=small, device="cpu", trust=TRUST)
    assert done.removal.filters == 16
    assert done.certificate.exact
    assert done.certificate.evaluation.samples == 16
    assert evaluate(small, recipe(), device="cpu", trust=TRUST).metrics == done.after.metrics
    said = inspect(small, from_dict({}), trust=TRUST)
    assert said.inputs == {"attention_mask": "int64[8] 0..1", "input_ids": "int64[8] 0..15"}
    assert said.size.params == done.after.size.params < done.before.size.params
    assert extcon_cli.load(small, trust_code=True).hidden.out_features == 16
    assert verify(small, small, (from_dict({}), from_dict({})), trust=TRUST).differences["random"].largest == 0


def test_a_plain_checkpoint_takes_the_inputs_of_the_other(model, tmp_path):
    torch.save(extcon_cli.load(model, trust_code=True).state_dict(), tmp_path / "net.pt")
    named = from_dict({"model": {"arch": f"{MADE}:Tiny"}})
    assert verify(tmp_path / "net.pt", model, (named, from_dict({})), trust=TRUST).verdict


def test_what_is_dead_goes_without_data(model, tmp_path):
    module = extcon_cli.load(model, trust_code=True)
    with torch.no_grad():
        module.hidden.weight[:4], module.hidden.bias[:4] = 0, 0
    torch.save(module.state_dict(), tmp_path / "dead.pt")
    kinds = {"input_ids": "int64[8] 0..15", "attention_mask": "int64[8] 1..1"}
    named = from_dict({"model": {"arch": f"{MADE}:Tiny", "inputs": kinds}})
    done = already_zero(tmp_path / "dead.pt", named, output=tmp_path / "out.safetensors", trust=TRUST)
    assert done.removal.filters == 4


def test_a_language_model_is_bypassed(model, tmp_path):
    output = tmp_path / "out.safetensors"
    done = bypass(model, recipe(), output=output, device="cpu", ignore_probe=True, trust=TRUST)
    assert done.validation["widen"] > 0
    assert "perplexity" in done.after.metrics


def test_other_inputs_are_refused(model):
    kinds = {"input_ids": "int64[9] 0..15", "attention_mask": "int64[9] 1..1"}
    longer = from_dict({"model": {"inputs": kinds}})
    with pytest.raises(GateError, match=r"takes inputs of attention_mask \[8\]"):
        verify(model, model, (from_dict({}), longer), trust=TRUST)


def test_a_task_of_ones_own(tmp_path):
    parts = {
        "model": {"arch": "zoo:mlp", "kwargs": {"in_features": 1, "widths": [8], "num_classes": 1}},
        "data": {"dataset": f"{MADE}:line", "batch_size": 16},
        "task": f"{MADE}:Absolute",
    }
    path, small = tmp_path / "net.safetensors", tmp_path / "small.safetensors"
    train(recipe(**parts), checkpoint=None, output=path, device="cpu", trust=TRUST)
    done = prune(path, recipe(**parts), output=small, device="cpu", trust=TRUST)
    assert set(done.after.metrics) == {"loss"}
    with pytest.raises(UsageError, match="--trust-code"):
        evaluate(small, recipe(**parts), device="cpu")
