"""`save`: what `load` gave, changed since, comes back; what does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import extcon_cli
from extcon_cli.channels import remove_zeros
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.read import read
from extcon_cli.checkpoint.write import write
from extcon_cli.checkpoint.zoo import DigitsResNet
from extcon_cli.errors import CheckpointError, UsageError
from extcon_cli.recipe.schema import NormalizeSpec

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
METADATA = Metadata(
    arch="zoo:digits_resnet",
    kwargs={"widths": [4, 8], "blocks": 1},
    input_shape=(1, 8, 8),
    history=({"command": "train", "accuracy": 0.97},),
    classes=tuple("0123456789"),
    normalize=NormalizeSpec(mean=(0.5,), std=(0.25,)),
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write(tmp_path / "model.safetensors", DigitsResNet(widths=(4, 8), blocks=1), METADATA)
    return tmp_path / "model.safetensors"


@torch.no_grad()
def with_dead_filters(model: nn.Module) -> nn.Module:
    norm = model.get_submodule("stages.0.0.bn1")
    norm.weight[:2] = 0
    norm.bias[:2] = 0
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_load_save_load_is_the_identity(checkpoint: Path, tmp_path: Path) -> None:
    model, out = extcon_cli.load(checkpoint), tmp_path / "out.safetensors"
    extcon_cli.save(model, out, like=checkpoint)
    again = extcon_cli.load(out)
    assert same(again, model)
    assert torch.equal(again(X), model(X))
    before, after = read(checkpoint).metadata, read(out).metadata
    assert before is not None
    assert after is not None
    assert after.history == (*before.history, {"command": "save", "version": extcon_cli.__version__})
    assert after.model_copy(update={"history": before.history, "version": before.version}) == before


def test_what_was_shrunk_and_tuned_in_an_own_loop_comes_back(checkpoint: Path, tmp_path: Path) -> None:
    out, later = tmp_path / "small.safetensors", tmp_path / "smaller.safetensors"
    removal = remove_zeros(with_dead_filters(extcon_cli.load(checkpoint)), (X,))
    with torch.no_grad():
        for parameter in removal.module.parameters():
            parameter += 0.01
    extcon_cli.save(removal.module, out, like=checkpoint, plans=[removal.plan])
    small = extcon_cli.load(out)
    assert same(small, removal.module)
    assert repr(small) == repr(removal.module)
    extcon_cli.save(small, later, like=out)  # the plans of a shrunk checkpoint are taken over
    assert same(extcon_cli.load(later), small)


def test_one_that_extcon_did_not_write_is_recognised(tmp_path: Path) -> None:
    torch.save(DigitsResNet().state_dict(), tmp_path / "plain.pt")
    model = extcon_cli.load(tmp_path / "plain.pt")
    extcon_cli.save(model, tmp_path / "out.safetensors", like=tmp_path / "plain.pt")
    metadata = read(tmp_path / "out.safetensors").metadata
    assert metadata is not None
    assert (metadata.arch, metadata.input_shape) == ("zoo:digits_resnet", (1, 8, 8))
    assert same(extcon_cli.load(tmp_path / "out.safetensors"), model)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: model.double()])
def test_wrappers_and_float64(checkpoint: Path, tmp_path: Path, wrap: type) -> None:
    model = extcon_cli.load(checkpoint)
    extcon_cli.save(wrap(model), tmp_path / "out.safetensors", like=checkpoint)
    assert same(extcon_cli.load(tmp_path / "out.safetensors"), model)


def test_a_shrunk_model_without_its_plan_does_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    removal = remove_zeros(with_dead_filters(extcon_cli.load(checkpoint)), (X,))
    with pytest.raises(CheckpointError, match=r"the model does not fit .*model\.safetensors: .* of another shape"):
        extcon_cli.save(removal.module, tmp_path / "out.safetensors", like=checkpoint)
    with pytest.raises(CheckpointError, match="the model does not fit"):
        extcon_cli.save(
            extcon_cli.load(checkpoint), tmp_path / "out.safetensors", like=checkpoint, plans=[removal.plan]
        )
    with pytest.raises(CheckpointError, match=r"does not fit .* with its removal plan"):
        extcon_cli.save(removal.module, tmp_path / "out.safetensors", like=checkpoint, plans=[removal.plan] * 2)
    assert not (tmp_path / "out.safetensors").exists()


def test_another_model_does_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing .* unexpected"):
        extcon_cli.save(nn.Linear(3, 2), tmp_path / "out.safetensors", like=checkpoint)


def test_places_that_cannot_be_written_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    model = extcon_cli.load(checkpoint)
    with pytest.raises(UsageError, match="exists already"):
        extcon_cli.save(model, checkpoint, like=checkpoint)
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        extcon_cli.save(model, tmp_path / "out.pt", like=checkpoint)
    extcon_cli.save(model, checkpoint, like=checkpoint, force=True)
    assert same(extcon_cli.load(checkpoint), model)


def test_a_like_without_an_architecture_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "nameless.safetensors", nn.Linear(3, 2), Metadata(arch=None))
    with pytest.raises(CheckpointError, match="does not name its architecture"):
        extcon_cli.save(nn.Linear(3, 2), tmp_path / "out.safetensors", like=tmp_path / "nameless.safetensors")


def test_the_header_is_json_that_others_can_read(checkpoint: Path, tmp_path: Path) -> None:
    removal = remove_zeros(with_dead_filters(extcon_cli.load(checkpoint)), (X,))
    extcon_cli.save(removal.module, tmp_path / "out.safetensors", like=checkpoint, plans=[removal.plan])
    metadata = read(tmp_path / "out.safetensors").metadata
    assert metadata is not None
    assert metadata.plans == (json.loads(json.dumps(removal.plan.to_json())),)


def test_what_was_half_precision_is_saved_so_after_training_in_float32(checkpoint: Path, tmp_path: Path) -> None:
    write(tmp_path / "half.safetensors", extcon_cli.load(checkpoint).bfloat16(), METADATA)
    model = extcon_cli.load(tmp_path / "half.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extcon_cli.save(model, tmp_path / "out.safetensors", like=tmp_path / "half.safetensors")
    stored = read(tmp_path / "out.safetensors").state
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.bfloat16}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (tmp_path / "out.safetensors").stat().st_size < 1.2 * (tmp_path / "half.safetensors").stat().st_size
