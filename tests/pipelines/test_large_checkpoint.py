"""A large checkpoint is read where it lies, tensor by tensor: the same smaller file comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from extcon_cli.channels.deferred import Deferred, dense, is_deferred
from extcon_cli.checkpoint.in_file import read_when_used
from extcon_cli.checkpoint.load import load
from extcon_cli.pipelines.already_zero import already_zero
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.recipe.load import from_dict

SAMPLE = Path(__file__).parents[2] / "sample_models" / "digits_resnet.pt"


@pytest.mark.parametrize("half", [False, True])
def test_a_removal_holds_no_tensor_of_a_large_checkpoint(
    half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, path = load(SAMPLE), tmp_path / "zeroed.pt"
    with torch.no_grad():
        norm = net.get_submodule("stages.1.0.bn1")
        for vector in (norm.weight, norm.bias):
            vector[:10] = 0
    torch.save((net.half() if half else net).state_dict(), path)
    recipe = from_dict({"model": {"arch": "zoo:digits_resnet", "input_shape": [1, 8, 8]}})

    def tensors(name: str) -> dict[str, Tensor]:
        already_zero(path, recipe, output=tmp_path / name, latency=False)
        return load_file(tmp_path / name)

    expected = tensors("small.safetensors")
    for place in ("checkpoint.read.LARGE", "pipelines.running.open.LARGE", "channels.deferred.SMALL"):
        monkeypatch.setattr(f"extcon_cli.{place}", 0)
    sparing = open_model(path, recipe, sparing=True).module
    assert {type(held) for held in sparing.parameters()} == {Deferred}
    weight = "stages.1.0.conv1.weight"
    assert torch.equal(dense(sparing.get_parameter(weight)), net.get_parameter(weight).float())
    assert not is_deferred(open_model(path, recipe).module)
    found = tensors("same.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
    assert found["stages.1.0.conv1.weight"].shape[0] == 22


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_tensors_are_read_where_they_lie_in_the_file(
    kind: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = tmp_path / f"state.{kind}", {"a": torch.arange(300).to(dtype).view(3, 100), "b": torch.ones(70, 2)}
    torch.save(state, path) if kind == "pt" else save_file(state, path)
    monkeypatch.setattr("extcon_cli.checkpoint.in_file.SMALL", 200)
    held = torch.load(path, mmap=True) if kind == "pt" else load_file(path)
    found = read_when_used({**held, "view": held["a"].T}, path)
    assert type(found["b"]) is type(found["view"]) is Tensor  # few numbers; no plain piece of the file
    assert torch.equal(dense(found["a"]), state["a"])
    if kind == "pt":
        assert isinstance(found["a"], Deferred)
        held["a"].zero_()  # the mapping that it came from may change, or go: the file is read
        dense(found["a"]).zero_()
        assert torch.equal(dense(found["a"]), state["a"])
    monkeypatch.setattr("extcon_cli.checkpoint.in_file.MAPPINGS", tmp_path / "none")  # another system
    assert read_when_used(held, path)["a"] is held["a"]
