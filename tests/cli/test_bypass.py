"""`extcon bypass` through its entry point: the verdict, the exit codes, the reload."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import extcon_cli
from extcon_cli.channels.compare import EXACT

from .conftest import SAMPLES, Extcon


@pytest.fixture
def stalled(tmp_path: Path) -> Path:
    for name in ("digits_mlp_stalled.pt", "digits_mlp_stalled.yaml"):
        shutil.copy(SAMPLES / name, tmp_path)
    return tmp_path


def test_the_result_is_not_worse_and_loads(extcon: Extcon, stalled: Path) -> None:
    done = extcon("bypass", "digits_mlp_stalled.pt", "--json", "--report", "r.html")
    assert done.code == 0, done.err
    losses = done.document["validation"]
    assert losses[done.document["verdict"]] <= losses["theta*"]
    chosen = done.document["diagnosis"]["remedies"]
    assert 1 <= len(chosen) <= 2
    assert set(chosen) <= {"mirror", "revive", "widen"}
    assert set(losses) == {"theta*", "baseline", "cosine", *chosen}
    assert f"chosen by the diagnosis: {', '.join(chosen)}; left out: diag" in done.err
    assert done.document["certificate"][chosen[0]]["embed_difference"] <= EXACT
    output = stalled / "digits_mlp_stalled.bypassed.safetensors"
    assert sum(p.numel() for p in extcon_cli.load(output).parameters()) == done.document["before"]["params"]
    assert extcon("evaluate", output, "--json").document["metrics"] == done.document["after"]["metrics"]
    assert "<svg" in (stalled / "r.html").read_text()


def test_no_gain_is_said_and_can_fail_the_command(extcon: Extcon, stalled: Path) -> None:
    hopeless = ("--set", "bypass.probe.gain=0.999")
    done = extcon("bypass", "digits_mlp_stalled.pt", "--out", "as_it_was.pt", "--json", *hopeless)
    assert done.code == 0, done.err
    before, after = (torch.load(stalled / name) for name in ("digits_mlp_stalled.pt", "as_it_was.pt"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert done.document["verdict"] == "no gain expected"
    failed = extcon("bypass", "digits_mlp_stalled.pt", "--out", "x.safetensors", "--require-gain", *hopeless)
    assert failed.code == 4
    assert "no gain" in failed.error
    assert not (stalled / "x.safetensors").exists()


def test_inspect_with_data_gives_the_diagnosis(extcon: Extcon, stalled: Path) -> None:
    done = extcon("inspect", "digits_mlp_stalled.pt", "--data", "--json")
    assert done.code == 0, done.err
    found = done.document["diagnosis"]
    assert found["stalled"]
    assert found["predicted"]
    assert found["dead"]["layers_1"]["dead"] >= 10
    assert "diagnosis" not in extcon("inspect", "digits_mlp_stalled.pt", "--json").document


def test_what_is_to_be_tried_can_be_named(extcon: Extcon, stalled: Path) -> None:
    short = [f"--set=bypass.{phase}.steps=8" for phase in ("probe", "opt_1", "opt_2", "train_3")]
    done = extcon("bypass", "digits_mlp_stalled.pt", "--try", "restart,shrink", "--json", *short)
    assert set(done.document["validation"]) == {"theta*", "baseline", "lr_drop", "cosine", "restart", "shrink"}
    assert extcon("bypass", "digits_mlp_stalled.pt", "--try", "anything", "--force").code == 2


def test_ignore_probe_and_force_are_two_things(extcon: Extcon, stalled: Path) -> None:
    hopeless = ("--set", "bypass.probe.gain=0.999", "--set", "bypass.extensions=[revive]", "--json")
    assert extcon("bypass", "digits_mlp_stalled.pt", *hopeless, "--ignore-probe").document["verdict"] == "revive"
    assert extcon("bypass", "digits_mlp_stalled.pt", *hopeless, "--ignore-probe").code == 2  # the output exists
    renamed = extcon("bypass", "digits_mlp_stalled.pt", *hopeless, "--go-on", "--force")
    assert renamed.document["verdict"] == "revive"
    assert "--go-on" not in extcon("bypass", "--help").out
    assert extcon("bypass", "digits_mlp_stalled.pt", *hopeless, "--force").document["verdict"] == "no gain expected"
