"""`extcon compare` as a specification: the same network in several files has the same figures, whatever runs it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import torch
from typer.testing import CliRunner

from extcon_cli.checkpoint.zoo import ConvNet
from extcon_cli.cli.app import app
from extcon_cli.errors import CheckpointError, RecipeError, UsageError
from extcon_cli.export.formats import FORMATS, named
from extcon_cli.export.program import program
from extcon_cli.pipelines.compare import compare
from extcon_cli.recipe.load import from_dict
from extcon_cli.report.charts import compared as chart
from extcon_cli.report.results.compare import CompareResult
from extcon_cli.report.serialise import json_schema, to_json

MODEL = {"arch": "zoo:convnet", "kwargs": {"widths": [4], "channels": 1}, "input_shape": [1, 8, 8]}
DATA = {"dataset": "digits", "eval_batch_size": 40, "normalize": {"mean": [0.3], "std": [0.4]}}
WITH_DATA = from_dict({"model": MODEL, "data": DATA})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A net as a checkpoint, and in formats whose packages are installed."""
    folder = tmp_path_factory.mktemp("net")
    torch.manual_seed(0)
    net = ConvNet(widths=(4,), channels=1).eval()
    torch.save(net.state_dict(), folder / "net.pt")
    found, made = program(net, (torch.zeros(2, 1, 8, 8),)), {"checkpoint": folder / "net.pt"}
    for name, package in (("torchscript", "torch"), ("onnx", "onnxscript"), ("openvino", "openvino")):
        if find_spec(package) is not None:
            made[name] = folder / f"net{FORMATS[name][1]}"
            named(name).write(found, made[name])  # type: ignore[attr-defined]
    return made


@pytest.fixture(scope="module")
def result(files: dict[str, Path]) -> CompareResult:
    return compare([*files.values()], [WITH_DATA] * len(files), samples=70)


def test_the_same_network_has_the_same_figures_in_every_file(files: dict[str, Path], result: CompareResult) -> None:
    assert [file.kind for file in result.files] == [*files]
    checkpoint = result.files[0]
    size = sum(p.numel() for p in ConvNet(widths=(4,), channels=1).parameters())
    assert checkpoint.params == size
    for file in result.files[1:]:
        assert file.metrics == pytest.approx(checkpoint.metrics, abs=1e-6)
        assert file.macs == checkpoint.macs
        assert file.params is not None
        assert size - 8 <= file.params <= size + 8  # of the norm, which is folded, or has its statistics
        assert set(file.latency) == {"1", "64"}
    assert result.samples == 70
    assert checkpoint.bytes == files["checkpoint"].stat().st_size
    jsonschema.validate(json.loads(json.dumps(to_json(result))), json_schema(CompareResult))


def test_the_chart_has_a_panel_for_each_known_figure(result: CompareResult) -> None:
    titles = [axes.get_title(loc="left") for axes in chart(result).axes]
    assert titles == ["accuracy", "parameters", "MACs", "size", "latency, batch 1", "latency, batch 64"]


def test_an_exported_file_alone_needs_the_shape_of_its_input(files: dict[str, Path]) -> None:
    lightest = files.get("onnx", files["torchscript"])  # it loads no torch
    alone = compare([lightest], [from_dict({"model": {"input_shape": [1, 8, 8]}})], latency=False)
    [file] = alone.files
    assert (file.metrics, file.latency, alone.samples) == ({}, {}, 0)
    assert file.macs is not None
    with pytest.raises(RecipeError, match="nothing says what it takes"):
        compare([lightest], [from_dict({})])
    with pytest.raises(CheckpointError, match=r"net\.\w+: .*does not take the inputs"):
        compare([lightest], [from_dict({"model": {"input_shape": [7]}})])


def test_the_command_draws_a_table_a_chart_and_a_document(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(json.dumps({"model": MODEL, "data": DATA}))
    path = tmp_path / "net.pt"
    path.write_bytes(files["checkpoint"].read_bytes())
    command = ["compare", str(path), str(path), "--no-latency", "--samples", "20"]
    reports = [tmp_path / "c.png", tmp_path / "c.html", tmp_path / "c.md"]
    done = CliRunner().invoke(app, [*command, *(f"--report={report}" for report in reports)])
    assert done.exit_code == 0, done.stderr
    head, row, *_, said = done.stdout.splitlines()
    assert head.split() == ["parameters", "MACs", "size", "accuracy"]
    assert row.startswith("net.pt ")
    assert said.startswith("20 test samples; run by torch")
    assert reports[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in reports[1].read_text()
    assert "| net.pt |" in reports[2].read_text()
    document = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert document["files"][0]["metrics"] == document["files"][1]["metrics"]
    refused = CliRunner().invoke(app, ["compare", str(path), "--report", str(tmp_path / "c.pdf")])
    assert isinstance(refused.exception, UsageError)
    missing = CliRunner().invoke(app, ["compare", str(tmp_path / "no.onnx")])
    assert isinstance(missing.exception, CheckpointError)
