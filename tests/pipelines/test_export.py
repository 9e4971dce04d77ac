"""`extcon export` as a specification: the file gives what the checkpoint gives, run elsewhere, or it is not written."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from extcon_cli.checkpoint.zoo import ConvNet
from extcon_cli.errors import DataError, GateError, UsageError
from extcon_cli.events import Event, Noted
from extcon_cli.export.formats import FORMATS
from extcon_cli.pipelines.export import export
from extcon_cli.recipe.load import from_dict
from extcon_cli.report.results.export import ExportResult

OPENVINO = pytest.mark.skipif(not find_spec("openvino"), reason="needs pip install 'extcon[openvino]'")
RECIPE = {
    "model": {"arch": "zoo:convnet", "kwargs": {"widths": [4], "channels": 1}, "input_shape": [1, 8, 8]},
    "data": {"dataset": "digits", "batch_size": 32},
}


@pytest.fixture
def net(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(ConvNet(widths=(4,), channels=1).state_dict(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


def run(net: Path, format: str, **more: object) -> ExportResult:
    recipe = from_dict({**RECIPE, **more.pop("recipe", {})})  # type: ignore[dict-item]
    output = net.with_name(f"out{FORMATS[format][1]}")
    return export(net, recipe, format=format, output=output, samples=40, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["pt2", "torchscript", pytest.param("openvino", marks=OPENVINO)])
def test_the_file_gives_what_the_checkpoint_gives(net: Path, format: str) -> None:
    done = run(net, format)
    [given] = done.inputs
    assert given.shape == ("batch", "1", "height", "width")
    assert done.samples == 40
    assert all(gap is not None and gap.relative < 1e-5 for gap in done.differences.values())
    assert done.after.metrics == pytest.approx(done.before.metrics, abs=1e-6)
    assert set(done.after.latency) == {"1", "64"}
    files = [net.with_name("out" + ending) for ending in ([".xml", ".bin"] if format == "openvino" else [])]
    files = files or [Path(done.output)]
    assert done.after.bytes == sum(file.stat().st_size for file in files)
    assert {path.name for path in net.parent.iterdir()} == {net.name, *(file.name for file in files)}
    with pytest.raises(UsageError, match="exists already"):
        run(net, format)


def test_a_state_dict_is_read_back_elsewhere(net: Path) -> None:
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in torch.load(net).items()}
    torch.save({"net." + name: tensor for name, tensor in half.items()}, net)
    gap = run(net, "state-dict").differences["tensors"]
    assert gap is not None
    assert gap.largest == 0
    state = torch.load(net.with_name("out.pth"), weights_only=True)
    assert state.keys() == half.keys()
    assert all(torch.equal(state[name], half[name]) and state[name].dtype == half[name].dtype for name in half)


def test_beyond_the_bound_nothing_is_written(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from extcon_cli.export import pt2

    def another(program: object, path: Path) -> object:
        with torch.no_grad():
            program.graph.state_dict["fc.bias"].add_(1)  # type: ignore[attr-defined]
        return whole(program, path)  # type: ignore[arg-type]

    whole = pt2.write
    monkeypatch.setattr(pt2, "write", another)
    with pytest.raises(GateError, match=r"more than --max-diff 0.0001; nothing was written"):
        run(net, "pt2")
    assert [path.name for path in net.parent.iterdir()] == [net.name]


def test_data_that_are_gone_are_no_reason_to_stop_unless_they_were_asked_for(net: Path) -> None:
    gone = {"data": {"dataset": "arrays", "root": "no.npz"}}
    events: list[Event] = []
    done = run(net, "pt2", recipe=gone, emit=events.append)
    assert done.differences["evaluation"] is None
    assert not done.after.metrics
    assert any(isinstance(event, Noted) and "random inputs alone" in event.message for event in events)
    with pytest.raises(DataError):
        run(net, "pt2", recipe=gone, need_data=True, force=True)


def test_int8_is_for_onnx_and_needs_data(net: Path) -> None:
    with pytest.raises(UsageError, match="only int8 with --format onnx"):
        run(net, "pt2", quantize="int8")
    if find_spec("onnxruntime"):
        with pytest.raises(UsageError, match="no data"):
            run(net, "onnx", quantize="int8", recipe={"data": None})
