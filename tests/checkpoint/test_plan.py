"""A shrunk checkpoint gives its shrunk module back: the plan in its metadata is replayed on the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from extcon_cli.channels import channel_groups, plan_removal, remove, zero_channels
from extcon_cli.channels.compare import EXACT, compare
from extcon_cli.checkpoint.load import load
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.write import write
from extcon_cli.checkpoint.zoo import ZOO
from extcon_cli.errors import CheckpointError
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.recipe.schema import ModelSpec, Recipe


def shrunk(name: str) -> tuple[nn.Module, dict[str, Any], torch.Tensor]:
    """A module that was shrunk, the plan that shrank it, and an input."""
    torch.manual_seed(0)
    module, x = ZOO[name].build().eval(), torch.randn(2, *ZOO[name].input_shape())
    return module, halve(module, x), x


def halve(module: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Take every second channel of each group away; the plan."""
    channels = channel_groups(module, (x,))
    for group in channels.groups:
        if group.prunable:
            zero_channels(module, group, np.arange(0, group.size, 2))
    expected = module(x)
    removal = plan_removal(module, channels)
    remove(module, removal)
    assert compare([([expected], [module(x)], len(x))]).relative <= EXACT
    return removal.to_json()


@pytest.mark.parametrize("name", ["digits_resnet", "convnet", "mlp"])
def test_a_shrunk_module_comes_back(tmp_path: Path, name: str) -> None:
    module, removal, x = shrunk(name)
    path = tmp_path / "small.safetensors"
    write(path, module, Metadata(arch=f"zoo:{name}", plan=removal))
    for loaded in (load(path), open_model(path, Recipe()).module):
        assert torch.equal(loaded(x), module(x))
        assert repr(loaded) == repr(module)
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in ZOO[name].build().parameters())


def test_a_recipe_that_names_the_architecture_still_gives_the_shrunk_module(tmp_path: Path) -> None:
    module, removal, x = shrunk("convnet")
    write(tmp_path / "small.safetensors", module, Metadata(arch="zoo:convnet", plan=removal))
    recipe = Recipe(model=ModelSpec(arch="zoo:convnet"))
    assert torch.equal(open_model(tmp_path / "small.safetensors", recipe).module(x), module(x))


def test_what_was_shrunk_twice_is_shrunk_twice_again(tmp_path: Path) -> None:
    module, first, x = shrunk("convnet")
    plans = (first, halve(module, x))
    write(tmp_path / "small.safetensors", module, Metadata(arch="zoo:convnet", plan=plans))
    assert torch.equal(load(tmp_path / "small.safetensors")(x), module(x))


def test_a_plan_of_another_architecture(tmp_path: Path) -> None:
    module, removal, _ = shrunk("convnet")
    write(tmp_path / "small.safetensors", module, Metadata(arch="zoo:digits_resnet", plan=removal))
    with pytest.raises(CheckpointError, match="does not fit zoo:digits_resnet with its removal plan"):
        load(tmp_path / "small.safetensors")
