"""What is exported: sizes are free where the model allows it, and only there; outputs keep their containers."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from extcon_cli.errors import TraceError
from extcon_cli.export import program as programs
from extcon_cli.export.program import Program, narrowed, program, varied


class Pooled(nn.Module):
    """Any resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().mean((2, 3))


@pytest.mark.skipif(not find_spec("onnxscript"), reason="needs pip install 'extcon[onnx]'")
def test_onnx_fixes_the_resolution_where_its_pooling_does(tmp_path: Path) -> None:
    """Pooled to 3 x 3, whatever comes in: ONNX says that by a window, for one resolution."""
    from extcon_cli.export import onnx

    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(18, 2)).eval()
    found = program(net, (torch.zeros(2, 1, 6, 6),))
    assert found.shapes() == (("batch", 1, "height", "width"),)
    written = onnx.write(found, tmp_path / "net.onnx")
    assert written.shapes() == (("batch", 1, 6, 6),)
    run = onnx.load(str(tmp_path / "net.onnx"), 1)
    x = torch.randn(5, 1, 6, 6)
    assert torch.allclose(torch.from_numpy(run([x.numpy()])[0]), net(x), atol=1e-6)


def test_a_size_that_takes_too_long_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    real = programs._exported

    def slow(module: nn.Module, example: Any, free: Any, structure: Any) -> Program:
        began = time.process_time()
        while any("height" in names.values() for names in free) and time.process_time() - began < 5:
            pass
        return real(module, example, free, structure)

    monkeypatch.setattr(programs, "_exported", slow)
    monkeypatch.setattr(programs, "PATIENCE", 0.05)
    assert program(Pooled(), (torch.zeros(2, 3, 8, 8),)).shapes() == (("batch", 3, 8, 8),)


class Flattened(Pooled):
    """One resolution, any batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4 * 8 * 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


class Fixed(nn.Module):
    """One batch size: it says so itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 3, 8, 8).sum((2, 3))


class Named(nn.Module):
    """Integers by name, and outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(input_ids) * attention_mask[..., None]
        return {"logits": x.sum(1), "states": x}


IMAGES = (torch.zeros(2, 3, 8, 8),)
TOKENS = {"input_ids": torch.arange(14).reshape(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.int64)}


def exported(module: nn.Module) -> Program:
    torch.manual_seed(0)
    return program(module, TOKENS if isinstance(module, Named) else IMAGES)


def test_what_may_be_free_is_free_by_name() -> None:
    assert exported(Pooled()).shapes() == (("batch", 3, "height", "width"),)
    assert exported(Flattened()).shapes() == (("batch", 3, 8, 8),)
    assert exported(Fixed()).shapes() == ((1, 3, 8, 8),)
    found = exported(Named())
    assert found.names == ("input_ids", "attention_mask")
    assert found.shapes() == (("batch", "sequence"),) * 2


def test_outputs_come_back_in_their_containers() -> None:
    found = exported(Named())
    assert found.output_names == ("output_0", "output_1")
    tensors = found.graph.module()(**TOKENS)
    assert set(found.restored(tensors)) == {"logits", "states"}


def test_inputs_are_varied_in_what_is_free() -> None:
    assert [tuple(x.shape) for (x,) in varied(IMAGES, exported(Pooled()).free)] == [
        (2, 3, 8, 8), (1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 16, 16),
    ]  # fmt: skip
    lengths = {inputs["input_ids"].shape for inputs in varied(TOKENS, exported(Named()).free)}  # type: ignore[call-overload]
    assert lengths == {(2, 7), (1, 7), (3, 7), (2, 3)}


def test_another_form_is_free_only_where_it_gives_the_same() -> None:
    found = exported(Pooled())

    def baked(x: Tensor) -> Tensor:  # as a trace that has baked the resolution in
        return found.module(x) * (1.0 if x.shape[2] == 8 else 2.0)

    assert narrowed(found, baked).shapes() == (("batch", 3, 8, 8),)
    with pytest.raises(TraceError, match="other outputs"):
        narrowed(found, lambda x: found.module(x) + 1)


def test_what_gives_no_tensor_is_refused() -> None:
    class Told(Pooled):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:  # type: ignore[override]
            return super().forward(x), "done"

    with pytest.raises(TraceError, match="more than tensors"):
        exported(Told())
