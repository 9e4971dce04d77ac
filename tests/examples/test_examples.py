"""The examples run, from a folder of their own, and do what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

import extcon_cli

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample_models" / "digits_resnet.pt"
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_catalyst_in_an_own_loop(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own_loop = example("own_loop")
    report = own_loop.smaller(tmp_path / "small.safetensors")
    assert report.filters == 168  # half of 336
    assert report.certificate.exact
    small = extcon_cli.load(tmp_path / "small.safetensors")
    assert size(small) < 0.6 * size(extcon_cli.load(SAMPLE))
    assert own_loop.accuracy(small, *own_loop.digits()["test"]) > 0.9


def test_bypass_in_an_own_loop(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before, after = example("own_loop").unstuck(tmp_path / "unstuck.pt")
    assert after > before + 0.02
    stalled = torch.load(ROOT / "sample_models" / "digits_mlp_stalled.pt")
    unstuck = torch.load(tmp_path / "unstuck.pt")
    assert {name: tensor.shape for name, tensor in unstuck.items()} == {n: t.shape for n, t in stalled.items()}


def test_masks_of_torch(tmp_path: Path) -> None:
    removal = example("masks").main(tmp_path / "masked.safetensors")
    assert removal.filters == 90
    assert removal.certificate.exact
    assert size(removal.module) < size(extcon_cli.load(SAMPLE))
    loaded = extcon_cli.load(tmp_path / "masked.safetensors")
    assert torch.equal(loaded(X), removal.module(X))


@pytest.mark.parametrize("name", ["own_loop", "masks"])
def test_as_a_script(name: str, tmp_path: Path) -> None:
    script = str(ROOT / "examples" / f"{name}.py")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "removed" in done.stdout
    written = {"own_loop": {"digits_smaller.safetensors", "digits_unstuck.pt"}, "masks": {"digits_masked.safetensors"}}
    assert {path.name for path in tmp_path.iterdir()} == written[name]


# The job ----------------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """What the job runs, but for the installation."""
    job = yaml.safe_load((ROOT / "examples" / "ci.yml").read_text())["jobs"]["prune"]
    return [step["run"] for step in job["steps"] if "run" in step and "pip install" not in step["run"]]


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


def test_the_job_passes_and_its_documents_agree(tmp_path: Path) -> None:
    checkout(tmp_path, bifurcate=4, finetune=6)
    for command in commands():
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    pruned, evaluated = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("pruned", "evaluated"))
    assert evaluated["metrics"] == pytest.approx(pruned["after"]["metrics"])


def test_the_job_fails_where_accuracy_is_lost(tmp_path: Path) -> None:
    checkout(tmp_path, bifurcate=1, finetune=1)
    recipe = yaml.safe_load((tmp_path / "model.yaml").read_text())
    recipe["prune"]["finetune"]["optimizer"]["lr"] = 1e-7  # nothing is learnt back
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(recipe))
    prune, *_ = commands()
    done = run(prune.replace("--ratio 0.5", "--ratio 0.85"), tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert not (tmp_path / "model.pruned.safetensors").exists()
