"""`extcon prune` on a folder of transformers: without data, and with text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from extcon_cli.cli.app import app
from extcon_cli.errors import DataError, GateError, UsageError
from extcon_cli.pipelines.pruning import made_inputs

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of bytes."""
    config = transformers.LlamaConfig(
        vocab_size=260, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("folders") / "tiny"
    transformers.LlamaForCausalLM(config).save_pretrained(place)
    return place


def test_text_scores_and_hands_over_without_training(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the number {i} comes before {i + 1}.\n" for i in range(200)))
    changes = ("data.block_size=16", "prune.bifurcate.method=none", "prune.finetune.steps=0", "prune.score.batches=2")
    arguments = ["prune", str(folder), "--data", str(text), "--ratio", "0.25", "--out", str(tmp_path / "out"), "--json"]
    ran = CliRunner().invoke(app, [*arguments, *(word for change in changes for word in ("--set", change))])
    assert ran.exit_code == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["recipe"]["task"] == "causal_lm"
    assert result["recipe"]["prune"]["finetune"]["optimizer"]["name"] == "adamw"
    assert result["folder"]["plain_difference"] <= 1e-5
    assert result["certificate"]["exact"]
    assert set(result["after"]["metrics"]) == {"loss", "perplexity"}
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    assert sum(p.numel() for p in plain.parameters()) == result["after"]["params"]
    assert "perplexity" in (tmp_path / "out" / "README.md").read_text()


def test_a_language_model_writes_what_its_filters_are_scored_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_inputs, "LONGEST", 12)
    none = ["--set", "prune.data=none"]
    arguments = [
        "prune",
        str(folder),
        *none,
        "--ratio",
        "0.25",
        "--out",
        str(tmp_path / "out"),
        "--json",
        "--no-latency",
    ]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.stderr
    assert "samples of 12 tokens" in ran.stderr
    assert "chosen by magnitude" not in ran.stderr
    result = json.loads(ran.stdout)
    assert result["recipe"]["prune"]["data"] == "none"
    assert result["certificate"]["exact"]
    for option in (["--data", "text.txt"], ["--max-size", "1MB"]):
        assert isinstance(CliRunner().invoke(app, [*arguments[:4], *option]).exception, (UsageError, DataError))


def test_what_needs_data_is_refused_without(folder: Path) -> None:
    for option in (["--max-drop", "1"], ["--resume"]):
        ran = CliRunner().invoke(app, ["prune", str(folder), "--ratio", "0.5", *option])
        assert isinstance(ran.exception, UsageError)
        assert "give --data" in str(ran.exception)


def test_the_output_lies_beside_the_folder(folder: Path) -> None:
    ran = CliRunner().invoke(
        app, ["prune", str(folder), "--params", "0.8", "--export", "state-dict", "--quiet", "--json"]
    )
    assert ran.exit_code == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert folder.with_name("tiny.pruned.pth").is_file()  # and not tiny.pth, which would be the original's
    assert Path(result["output"]) == folder.with_name("tiny.pruned")
    assert result["after"]["params"] <= 0.8 * result["before"]["params"]
    assert result["removal"]["target"]["reached"] == result["after"]["params"]
    again = CliRunner().invoke(app, ["verify", str(folder), str(folder.with_name("tiny.pruned")), "--json"])
    assert isinstance(again.exception, GateError), "it was not trained, and other outputs are said"
    looked = CliRunner().invoke(app, ["inspect", str(folder.with_name("tiny.pruned")), "--json"])
    assert looked.exit_code == 0, looked.stderr
    assert json.loads(looked.stdout)["params"] == result["after"]["params"]


def test_masks_of_a_folder_are_cut_exactly(folder: Path, tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data[:, :8] = 0
        layer.mlp.up_proj.weight.data[:8] = 0
        layer.mlp.gate_proj.weight.data[:8] = 0
    model.save_pretrained(tmp_path / "masked")
    ran = CliRunner().invoke(app, ["prune", str(tmp_path / "masked"), "--already-zero", "--json"])
    assert ran.exit_code == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["folder"]["config"] == {"intermediate_size": {"before": 32, "after": 24}}
    compared = CliRunner().invoke(app, ["verify", str(tmp_path / "masked"), str(tmp_path / "masked.pruned")])
    assert compared.exit_code == 0, compared.stdout


def test_a_folder_needs_no_first_recipe(folder: Path) -> None:
    ran = CliRunner().invoke(app, ["init", str(folder)])
    assert isinstance(ran.exception, UsageError)
    assert "recipe show" in str(ran.exception)
    assert not folder.with_suffix(".yaml").exists()
