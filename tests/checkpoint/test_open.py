"""Opening a checkpoint for a command: which architecture wins, whose code runs, and what the input's shape is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.trust import Trust
from extcon_cli.checkpoint.write import write
from extcon_cli.checkpoint.zoo import MLP, ConvNet, DigitsResNet
from extcon_cli.errors import CheckpointError, RecipeError, UsageError
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.recipe.schema import ModelSpec, Recipe

CODE = "from torch import nn\ndef make(width=3): return nn.Linear(width, 2)\n"


def recipe(**model: object) -> Recipe:
    return Recipe(model=ModelSpec.model_validate(model))


def saved(folder: Path, module: nn.Module) -> Path:
    torch.save(module.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def written(folder: Path, module: nn.Module, **metadata: object) -> Path:
    write(folder / "m.safetensors", module, Metadata.model_validate(metadata), force=True)
    return folder / "m.safetensors"


def test_a_plain_checkpoint_is_identified_and_the_recipe_filled_in(tmp_path: Path) -> None:
    opened = open_model(saved(tmp_path, DigitsResNet(num_classes=4)), Recipe())
    assert isinstance(opened.module, DigitsResNet)
    assert not opened.module.training
    assert opened.arch == ModelSpec(arch="zoo:digits_resnet", kwargs={"num_classes": 4}, input_shape=(1, 8, 8))
    assert opened.recipe.model == opened.arch
    assert opened.recipe.model_copy(update={"model": ModelSpec()}) == Recipe()


def test_the_recipe_goes_before_the_metadata(tmp_path: Path) -> None:
    path = written(tmp_path, MLP(8), arch="zoo:mlp", kwargs={"in_features": 8, "activation": "relu"})
    assert open_model(path, Recipe()).arch.input_shape == (8,)
    kwargs = {"in_features": 8, "activation": "tanh"}
    opened = open_model(path, recipe(arch="zoo:mlp", kwargs=kwargs))
    assert opened.arch.kwargs == kwargs
    assert isinstance(opened.module.layers[1], nn.Tanh)


def test_arguments_alone_are_added_to_those_of_the_metadata(tmp_path: Path) -> None:
    path = written(tmp_path, MLP(8), arch="zoo:mlp", kwargs={"in_features": 8, "activation": "relu"})
    opened = open_model(path, recipe(kwargs={"activation": "gelu"}))
    assert opened.arch.kwargs == {"in_features": 8, "activation": "gelu"}


def test_an_architecture_that_does_not_fit_names_the_nearest(tmp_path: Path) -> None:
    path = saved(tmp_path, DigitsResNet())
    with pytest.raises(CheckpointError, match=r"does not fit zoo:convnet.*nearest: zoo:digits_resnet \(100 %"):
        open_model(path, recipe(arch="zoo:convnet"))


def test_mistakes_of_the_recipe_are_the_users(tmp_path: Path) -> None:
    path = saved(tmp_path, DigitsResNet())
    with pytest.raises(UsageError, match="did you mean zoo:digits_resnet"):
        open_model(path, recipe(arch="zoo:digits_resnt"))
    with pytest.raises(UsageError, match="no argument 'num_clases'"):
        open_model(path, recipe(arch="zoo:digits_resnet", kwargs={"num_clases": 3}))


def test_the_input_shape_is_the_recipes_the_metadatas_the_datas_or_customary(tmp_path: Path) -> None:
    plain = saved(tmp_path, ConvNet())
    stored = written(tmp_path, ConvNet(), arch="zoo:convnet", input_shape=(3, 28, 28))
    for path, given, data, expected in [
        (stored, (3, 16, 16), (3, 64, 64), (3, 16, 16)),
        (stored, None, (3, 64, 64), (3, 28, 28)),
        (plain, None, (3, 64, 64), (3, 64, 64)),
        (plain, None, None, (3, 32, 32)),
    ]:
        assert open_model(path, recipe(input_shape=given), data_shape=data).arch.input_shape == expected


def test_an_unknown_input_shape(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    with pytest.raises(RecipeError, match=r"--set model\.input_shape"):
        open_model(saved(tmp_path, nn.Linear(3, 2)), recipe(arch=f"{tmp_path}/net.py:make"), trust=Trust(code=True))


def test_code_of_a_recipe_that_the_user_gave_runs_but_not_that_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    arch = f"{tmp_path}/net.py:make"
    path = written(tmp_path, nn.Linear(3, 2), arch=arch, input_shape=(3,))
    assert open_model(path, recipe(arch=arch), trust=Trust(recipe=True)).module.in_features == 3
    for refused in (recipe(arch=arch), Recipe()):
        with pytest.raises((UsageError, CheckpointError), match="--trust-code"):
            open_model(path, refused, trust=Trust(recipe=refused.model.arch is None))
    assert open_model(path, Recipe(), trust=Trust(code=True)).module.in_features == 3


def test_a_pickled_module_is_taken_as_it_is(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 2)), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="--trust-pickle"):
        open_model(tmp_path / "model.pt", Recipe())
    opened = open_model(tmp_path / "model.pt", recipe(input_shape=(3,)), trust=Trust(pickle=True))
    assert isinstance(opened.module, nn.Sequential)
    assert opened.arch.arch is None


def test_metadata_without_an_architecture(tmp_path: Path) -> None:
    path = written(tmp_path, DigitsResNet(), arch=None)
    with pytest.raises(CheckpointError, match=r"model\.arch"):
        open_model(path, Recipe())
    assert isinstance(open_model(path, recipe(arch="zoo:digits_resnet")).module, DigitsResNet)
