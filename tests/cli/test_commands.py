"""Each command does its job through the entry point, and says it as people, CI and reports need it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import extcon_cli
from extcon_cli.cli.app import app

from .conftest import QUICK, Done, Extcon


@pytest.fixture
def pruned(extcon: Extcon, place: Path) -> Done:
    return extcon(
        "prune", "digits_resnet.pt", "--ratio", "0.5", "--json", "--report", "r.html", "--report", "r.md", *QUICK
    )


def test_prune_ends_with_a_smaller_model_that_evaluates_the_same(extcon: Extcon, place: Path, pruned: Done) -> None:
    assert pruned.code == 0, pruned.err
    document = pruned.document
    removal, before, after = document["removal"], document["before"], document["after"]
    assert abs(removal["ratio"] * removal["prunable"] - 0.5 * removal["prunable"]) <= 1
    assert removal["metrics_before_removal"]["accuracy"] == removal["metrics_after_removal"]["accuracy"]
    assert removal["relative_difference"] <= 1e-5
    assert removal["argmax_agreement"] == 1
    assert document["certificate"]["exact"]
    assert all(after[key] < before[key] for key in ("params", "macs", "bytes"))
    assert set(before["latency"]) == {"1", "64"}

    output = place / "digits_resnet.pruned.safetensors"
    assert document["output"] == output.name
    module = extcon_cli.load(output)
    assert sum(p.numel() for p in module.parameters()) == after["params"]
    assert not module.training

    evaluated = extcon("evaluate", output, "--json").document
    assert evaluated["metrics"] == pytest.approx(after["metrics"])
    inspected = extcon("inspect", output, "--json").document
    assert inspected["params"] == after["params"]
    assert inspected["macs"] == after["macs"]
    assert inspected["metadata"]["history"][-1]["command"] == "prune"

    html = (place / "r.html").read_text()
    assert "<svg" in html
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:""", html)
    assert "digits_resnet" in (place / "r.md").read_text()


def test_progress_is_plain_without_a_terminal_and_silent_when_quiet(extcon: Extcon, place: Path) -> None:
    told = extcon("evaluate", "digits_resnet.pt")
    assert told.code == 0
    assert "\x1b" not in told.err + told.out
    assert "Measuring" in told.err
    quiet = extcon("evaluate", "digits_resnet.pt", "--quiet", "--json")
    assert quiet.err == ""
    assert quiet.document["metrics"]["accuracy"] > 0.95


def test_the_gate_on_accuracy_writes_nothing_and_can_be_accepted(extcon: Extcon, place: Path) -> None:
    rough = ("--ratio", "0.8", *QUICK, "--set", "prune.finetune.optimizer.lr=1e-6", "--set", "prune.finetune.keep=last")
    failed = extcon("prune", "digits_resnet.pt", "--max-drop", "0", *rough)
    assert failed.code == 4
    assert "--max-drop" in failed.error
    assert not (place / "digits_resnet.pruned.safetensors").exists()
    accepted = extcon("prune", "digits_resnet.pt", "--max-drop", "100", "--resume", *rough)
    assert accepted.code == 0, accepted.err
    assert (place / "digits_resnet.pruned.safetensors").exists()


def test_train_from_scratch_and_on(extcon: Extcon, place: Path) -> None:
    short = ("--recipe", "train/digits_resnet", "--set", "train.epochs=1")
    first = extcon("train", *short, "--out", "a.pt", "--json")
    assert first.code == 0, first.err
    again = extcon("train", "a.pt", *short, "--out", "b.safetensors", "--json", "--junit", "done.xml")
    assert again.code == 0, again.err
    assert 'name="extcon train" tests="1" failures="0"' in (place / "done.xml").read_text()
    assert extcon("evaluate", "b.safetensors", "--json").document["metrics"] == again.document["metrics"]


def test_a_github_job_gets_a_summary(extcon: Extcon, place: Path) -> None:
    summary = place / "summary.md"
    assert extcon("evaluate", "digits_resnet.pt", GITHUB_STEP_SUMMARY=str(summary)).code == 0
    assert "accuracy" in summary.read_text()


def test_a_summary_that_cannot_be_written_fails_no_job(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "missing" / "summary.md"))
    done = CliRunner().invoke(app, ["evaluate", str(place / "digits_resnet.pt"), "--quiet"])
    assert done.exit_code == 0, done.stderr
    assert "warning: no summary in" in done.stderr
    assert "accuracy" in done.stdout


def test_help_and_version_answer(extcon: Extcon) -> None:
    assert extcon("--version").out == f"extcon {extcon_cli.__version__}\n"
    for command in ("prune", "train", "evaluate", "inspect", "recipe"):
        shown = extcon(command, "--help")
        assert shown.code == 0
        assert "extcon" in shown.out


def test_the_recipe_of_a_checkpoint_can_be_used_again(extcon: Extcon, place: Path) -> None:
    (place / "mine.yaml").write_text(extcon("recipe", "show", "prune/digits_resnet", "--resolved").out)
    assert extcon("recipe", "check", "mine.yaml").out == "valid\n"
    assert json.loads(extcon("recipe", "schema").out)["title"] == "Recipe"


def test_a_plan_is_shown_written_and_followed(extcon: Extcon, place: Path) -> None:
    done = extcon("plan", "digits_resnet.pt", "--macs", "0.5", "--set", "prune.score.batches=3", "--json")
    assert done.code == 0, done.err
    document = done.document
    assert json.loads((place / "digits_resnet.plan.json").read_text()) == document
    assert document["after"]["macs"] <= 0.5 * document["before"]["macs"]
    pruned = extcon("prune", "digits_resnet.pt", "--plan", "digits_resnet.plan.json", "--json", *QUICK)
    assert pruned.code == 0, pruned.err
    assert pruned.document["after"]["macs"] == document["after"]["macs"]
    shown = extcon("plan", "digits_resnet.pt", "--ratio", "0.3", "--samples", "0", "--force", "--quiet")
    assert "101 of 336 filters would go (ratio 0.3)" in shown.out
    assert len(shown.out.splitlines()) == 1
