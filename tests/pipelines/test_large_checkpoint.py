"""A large checkpoint is read where it lies, tensor by tensor: the same smaller file comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from extcon_cli.channels.deferred import Deferred, is_deferred
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
    assert {type(held) for held in open_model(path, recipe, sparing=True).module.parameters()} == {Deferred}
    assert not is_deferred(open_model(path, recipe).module)
    found = tensors("same.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
    assert found["stages.1.0.conv1.weight"].shape[0] == 22
