"""A module as a call in each runtime: it runs there, at the batch size asked for, and the module is as it was."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from extcon_cli.errors import TraceError, UsageError
from extcon_cli.export import formats
from extcon_cli.export.formats import RUNTIMES, check_runtime
from extcon_cli.latency import runtimes
from extcon_cli.latency.clock import take_turns
from extcon_cli.latency.runtimes import Setting, running

NEEDS = {"onnxruntime": "onnxscript", "openvino": "openvino"}


def net(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 2)
    )


@pytest.mark.parametrize(
    "runtime", [name if name != "torch.compile" else pytest.param(name, marks=pytest.mark.slow) for name in RUNTIMES]
)
def test_every_runtime_runs_a_batch(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if runtime in NEEDS and find_spec(NEEDS[runtime]) is None:
        pytest.skip(f"{NEEDS[runtime]} is not installed")
    module, seen = net().train(), []
    before = copy.deepcopy(module.state_dict())
    given = RUNTIMES[runtime]
    if given is not None:  # what the file gives, and for what
        kind = formats.named(given)
        load = kind.load  # type: ignore[attr-defined]

        def watched(path: str, threads: int):
            run = load(path, threads)

            def call(arrays):
                seen.append((arrays[0], run(arrays)))

            return call

        monkeypatch.setattr(kind, "load", watched)
    setting = Setting(runtime, batch_size=3, threads=1)
    example = (torch.randn(2, 3, 8, 8),)
    with running(module, example, setting) as run:
        assert take_turns([run], seconds=0.01).least(0) > 0
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert setting.software.startswith(runtime)
    assert setting.hardware
    if seen:
        array, (output,) = seen[0]
        assert array.shape == (3, 3, 8, 8)
        with torch.no_grad():
            assert np.allclose(output, module.eval()(torch.from_numpy(array)).numpy(), atol=1e-5)


def test_threads_are_those_asked_for_and_given_back() -> None:
    before, seen = torch.get_num_threads(), []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    with running(Watching(), (torch.zeros(1, 2),), Setting("torch", 1, threads=2)) as run:
        run()
    assert seen[-1] == 2
    assert torch.get_num_threads() == before


def test_what_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--runtime tensorrt: should be one of torch, torch\.compile, onnxruntime"):
        check_runtime("tensorrt")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--runtime openvino needs openvino: pip install 'extcon\[openvino\]'"):
        check_runtime("openvino")
    with pytest.raises(UsageError, match=r"--runtime onnxruntime needs onnx and onnxscript and onnxruntime"):
        check_runtime("onnxruntime")


def test_a_model_that_no_graph_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Undecided(nn.Module):
        def forward(self, x):
            return x * 2 if float(x.sum()) > 0 else x

    monkeypatch.setattr(runtimes, "check_runtime", lambda name: None)
    with (
        pytest.raises(TraceError, match="cannot be exported"),
        running(Undecided(), (torch.ones(1, 2),), Setting("onnxruntime", 1, threads=1)),
    ):
        pass
