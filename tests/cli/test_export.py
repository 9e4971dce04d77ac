"""`extcon export` through its entry point: the file runs without extcon, or it is not written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import extcon_cli
from extcon_cli.checkpoint.zoo import ZOO

from .conftest import QUICK, SAMPLES, Extcon

ONNX = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs pip install 'extcon[onnx]'"
)


@ONNX
def test_onnx_and_int8_in_the_same_table(extcon: Extcon, tmp_path: Path) -> None:
    for ending in (".pt", ".yaml"):
        shutil.copy(SAMPLES / f"digits_cnn_stalled{ending}", tmp_path / f"net{ending}")
    report = ("--report", "r.md", "--report", "r.html")
    done = extcon("export", "net.pt", "--quantize", "int8", "--samples", "100", *report)
    assert done.code == 0, done.err
    rows = [line.split("   ")[0] for line in done.out.splitlines()]
    assert [row.partition(",")[0] for row in rows[1:4]] == ["checkpoint", "onnx", "int8"]
    assert (tmp_path / "net.int8.onnx").is_file()
    for name in ("r.md", "r.html"):
        assert "int8, onnxruntime" in (tmp_path / name).read_text()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    [given] = session.get_inputs()
    assert given.shape == ["batch", 1, "height", "width"]
    x = np.random.default_rng(0).normal(size=(5, 1, 12, 12)).astype(np.float32)
    net = ZOO["digits_resnet"].build(widths=[4, 4, 8], blocks=1)
    expected = extcon_cli.load(tmp_path / "net.pt", model=net)(torch.from_numpy(x)).detach().numpy()
    assert np.abs(session.run(["output"], {given.name: x})[0] - expected).max() < 1e-5


def test_a_missing_package_is_one_line_with_the_command(tmp_path: Path) -> None:
    program = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name.startswith('onnx') else real(name, *rest)\n"
        "import sys; sys.argv = ['extcon', 'export', 'no.pt', '--format', 'onnx']\n"
        "from extcon_cli.cli.app import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "extcon: error: --format onnx needs onnx and onnxscript and onnxruntime: "
        "pip install 'extcon[onnx]'  (onnx onnxscript onnxruntime)\n"
    )


def test_prune_exports_what_it_has_written(extcon: Extcon, tmp_path: Path) -> None:
    for ending in (".pt", ".yaml"):
        shutil.copy(SAMPLES / f"digits_cnn_stalled{ending}", tmp_path / f"net{ending}")
    done = extcon("prune", "net.pt", "--ratio", "0.3", "--export", "pt2", "--json", *QUICK)
    assert done.code == 0, done.err
    [exported] = done.document["exported"]
    assert exported["after"]["metrics"] == pytest.approx(done.document["after"]["metrics"], abs=1e-6)
    x = torch.randn(3, 1, 8, 8)
    small = extcon_cli.load(tmp_path / "net.pruned.safetensors")
    assert torch.allclose(torch.export.load(tmp_path / "net.pruned.pt2").module()(x), small(x), atol=1e-5)
    assert "should be one of onnx" in extcon("prune", "net.pt", "--force", "--export", "nope").error
