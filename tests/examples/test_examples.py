"""The examples run, from a folder of their own, and do what they say."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import extcon_cli

from .workflow import Job, run_job

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample_models" / "digits_resnet.pt"


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def script(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run an example as `python examples/NAME.py` does, in a folder of its own; its names."""
    path = str(ROOT / "examples" / f"{name}.py")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [path])
    return runpy.run_path(path, run_name="__main__")


def test_catalyst_and_bypass_in_an_own_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = script("own_loop", tmp_path, monkeypatch)
    assert "168 filters removed" in capsys.readouterr().out  # half of 336
    images, labels = names["digits"]()["test"]
    small = extcon_cli.load(tmp_path / "digits_smaller.safetensors")
    assert size(small) < 0.6 * size(extcon_cli.load(SAMPLE))
    assert names["accuracy"](small, images, labels) > 0.9
    model = names["MLP"](64, [16], 10)
    model.load_state_dict(torch.load(SAMPLE.with_name("digits_mlp_stalled.pt")))
    before = names["accuracy"](model, images, labels)
    model.load_state_dict(torch.load(tmp_path / "digits_unstuck.pt"))
    assert names["accuracy"](model, images, labels) > before + 0.2


def test_masks_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script("masks", tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "90 channels removed" in printed
    assert "arg-max agrees on 100%" in printed
    small, widths = extcon_cli.load(tmp_path / "digits_masked.safetensors"), [10, 10, 19, 19, 38, 38]
    assert [small.get_submodule(f"stages.{i // 2}.{i % 2}.conv1").out_channels for i in range(6)] == widths


def test_a_task_of_ones_own_is_the_guides(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "guide" / "tasks.md").read_text()
    python = guide.split("```python\n")[1].split("```")[0].split("\n\n\n")
    assert all(block.strip() in (ROOT / "examples" / "own_task.py").read_text() for block in python)
    assert (ROOT / "examples" / "own_task.yaml").read_text() in guide
    for command in guide.split("```bash\n")[1].split("```")[0].splitlines():
        done = run(command.replace("examples/", f"{ROOT}/examples/"), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "psnr" in done.stdout
    assert "24 of 48 filters removed" in done.stdout


def test_from_a_folder_of_pictures_to_a_smaller_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script("pictures", tmp_path, monkeypatch)
    printed = capfd.readouterr().out
    assert "dataset: image_folder  # it holds 3 folders, one for each class, and no test part" in printed
    assert "112 of 224 filters removed" in printed
    assert printed.count("rows your model may have been trained on") == 2  # of prune and of evaluate
    assert size(extcon_cli.load(tmp_path / "model.pruned.safetensors")) < 30_000  # of 93,859


# The job ----------------------------------------------------------------------------------------------------------


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As a GitHub runner does it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command]
    return subprocess.run(
        shell, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )


def checkout(folder: Path, bifurcate: int, finetune: int) -> None:
    """The sample as model.pt, with its recipe cut short."""
    (folder / "model.pt").write_bytes(SAMPLE.read_bytes())
    recipe = yaml.safe_load(SAMPLE.with_suffix(".yaml").read_text())
    recipe["prune"]["bifurcate"]["epochs"], recipe["prune"]["finetune"]["epochs"] = bifurcate, finetune
    (folder / "model.yaml").write_text(yaml.safe_dump(recipe))


def job(folder: Path, **env: str) -> Job:
    """The example's job, without the installation."""
    return run_job(ROOT / "examples" / "ci.yml", "prune", folder, skip=lambda text: "pip install" in text, env=env)


def test_the_job_passes_and_its_documents_agree(tmp_path: Path) -> None:
    checkout(tmp_path, bifurcate=4, finetune=6)
    done = job(tmp_path)
    assert not done.failed, done.log
    assert list(done.codes.values()) == [0, 0, 0]
    pruned, evaluated = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("pruned", "evaluated"))
    assert evaluated["metrics"] == pytest.approx(pruned["after"]["metrics"])
    assert evaluated["gates"][0]["limit"] == pytest.approx(pruned["after"]["metrics"]["accuracy"])
    assert "## extcon prune `model.pt`" in done.summary
    assert "## extcon evaluate `model.pruned.safetensors`" in done.summary
    assert 'name="max-drop"' in (tmp_path / "gates.xml").read_text()


def test_the_job_fails_where_accuracy_is_lost(tmp_path: Path) -> None:
    checkout(tmp_path, bifurcate=1, finetune=1)
    recipe = yaml.safe_load((tmp_path / "model.yaml").read_text())
    recipe["prune"]["finetune"]["optimizer"]["lr"] = 1e-7  # nothing is learnt back
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(recipe))
    done = job(tmp_path, RATIO="0.85")
    assert done.failed
    assert list(done.codes.values()) == [4], done.log
    assert not (tmp_path / "model.pruned.safetensors").exists()
    assert "| max-drop | FAILED |" in done.summary
    assert 'failures="1"' in (tmp_path / "gates.xml").read_text()
