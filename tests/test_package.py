"""The distributions: the wheel is built from the sdist, unpacked, and runs outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="the test extra brings hatchling")

ROOT = Path(__file__).parents[1]


def build(kind: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    archive = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return source


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the sdist gives, unpacked as an installer would."""
    archive = build("wheel", sdist, tmp_path_factory.mktemp("wheel"))
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def run(wheel: Path, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "extcon_cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_the_sdist_holds_what_the_readme_names(sdist: Path) -> None:
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "sample_models/digits_resnet.pt", "tests/test_package.py"):
        assert (sdist / name).is_file(), name
    assert not (sdist / ".ci").exists()


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = {path.name for path in wheel.iterdir()}
    assert {name.split("-")[0] for name in names} == {"extcon_cli", "extcon"}
    assert (wheel / "extcon_cli" / "py.typed").is_file()
    recipes = ROOT / "recipes"
    bundled = {str(path.relative_to(recipes)) for path in recipes.rglob("*.yaml")}
    assert {str(p.relative_to(wheel / "extcon_cli/bundled_recipes")) for p in wheel.rglob("*.yaml")} == bundled


def test_the_metadata_name_license_and_readme(wheel: Path) -> None:
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    fields = Parser().parsestr(metadata.read_text(encoding="utf-8"))
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Description-Content-Type"] == "text/markdown"
    assert (metadata.parent / "licenses" / "LICENSE").is_file()


def test_the_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    where = "import extcon_cli; print(extcon_cli.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(wheel)
    assert "prune" in run(wheel, tmp_path, "--help")
    assert "prune/digits_resnet" in run(wheel, tmp_path, "recipe", "list")
    out = tmp_path / "tiny.safetensors"
    run(wheel, tmp_path, "train", "--recipe", "train/digits_resnet", "--set", "train.epochs=0.1", "--out", str(out))
    assert out.is_file()
    assert '"command": "inspect"' in run(wheel, tmp_path, "inspect", str(out), "--json")
