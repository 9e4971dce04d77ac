"""Writing and loading back: the identity, the same bytes each time, whole or not at all; and damaged metadata."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import extcon_cli
from extcon_cli.checkpoint.load import load
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.read import read
from extcon_cli.checkpoint.write import check_writable, write
from extcon_cli.checkpoint.zoo import MLP, DigitsResNet
from extcon_cli.errors import CheckpointError, UsageError
from extcon_cli.recipe.schema import NormalizeSpec

METADATA = Metadata(
    arch="zoo:digits_resnet",
    kwargs={"widths": (4, 8), "blocks": 1},
    input_shape=(1, 8, 8),
    recipe={"seed": 0, "model": {"arch": "zoo:digits_resnet"}},
    history=({"command": "train", "accuracy": 0.97},),
    classes=("zero", "one"),
    normalize=NormalizeSpec(mean=(0.5,), std=(0.25,)),
    version="0.1.0",
)


def digits() -> DigitsResNet:
    torch.manual_seed(0)
    return DigitsResNet(widths=(4, 8), blocks=1).eval()


# The identity ---------------------------------------------------------------------------------------------------


def test_load_gives_back_what_was_written(tmp_path: Path) -> None:
    path, module, x = tmp_path / "m.safetensors", digits(), torch.randn(3, 1, 8, 8)
    write(path, module.train(), METADATA)
    loaded = extcon_cli.load(path)
    assert not loaded.training
    assert torch.equal(loaded(x), module.eval()(x))
    assert loaded.state_dict().keys() == module.state_dict().keys()


def test_metadata_come_back(tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors", digits(), METADATA)
    metadata = read(tmp_path / "m.safetensors").metadata
    assert metadata is not None
    assert metadata.model_dump_json() == METADATA.model_dump_json()
    assert metadata.input_shape == (1, 8, 8)
    assert metadata.classes == ("zero", "one")


def test_other_readers_open_it(tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors", digits(), METADATA)
    tensors = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in digits().state_dict().items())
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["extcon.arch"]) == "zoo:digits_resnet"


def test_figures_that_are_no_numbers_become_null(tmp_path: Path) -> None:
    history = ({"loss": float("nan"), "r2": -float("inf"), "n": 3},)
    write(tmp_path / "m.safetensors", digits(), METADATA.model_copy(update={"history": history}))
    metadata = read(tmp_path / "m.safetensors").metadata
    assert metadata is not None
    assert metadata.history == ({"loss": None, "r2": None, "n": 3},)


def test_float64_stays_float64(tmp_path: Path) -> None:
    module, x = digits().double(), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    write(tmp_path / "m.safetensors", module, METADATA)
    assert torch.equal(load(tmp_path / "m.safetensors")(x), module(x))


def test_half_precision_is_loaded_as_float32(tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors", digits().half(), METADATA)
    assert {p.dtype for p in load(tmp_path / "m.safetensors").parameters()} == {torch.float32}


TIED = """
from torch import nn
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
    def forward(self, x):
        return self.second(self.first(x))
"""


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    (tmp_path / "tied.py").write_text(TIED)
    metadata = Metadata(arch=f"{tmp_path}/tied.py:Tied")
    from extcon_cli.checkpoint.architectures import build

    module = build(str(metadata.arch), {}, trust_code=True)
    write(tmp_path / "m.safetensors", module, metadata)
    assert sorted(read(tmp_path / "m.safetensors").state) == ["first.bias", "first.weight", "second.bias"]
    loaded = load(tmp_path / "m.safetensors", trust_code=True)
    assert loaded.first.weight is loaded.second.weight
    assert torch.equal(loaded.second.weight, module.second.weight)
    with pytest.raises(CheckpointError, match="--trust-code"):
        load(tmp_path / "m.safetensors")


def test_views_of_one_storage_are_stored_each(tmp_path: Path) -> None:
    module, both = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)), torch.randn(4, 2)
    module[0].weight.data, module[1].weight.data = both[:2], both[2:]
    write(tmp_path / "m.safetensors", module, Metadata(arch=None))
    state = read(tmp_path / "m.safetensors").state
    assert torch.equal(torch.cat([state["0.weight"], state["1.weight"]]), both)


# The same bytes -------------------------------------------------------------------------------------------------


def test_the_same_module_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    program = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]);"
        "from test_write import METADATA, digits; from extcon_cli.checkpoint.write import write;"
        "write(sys.argv[2], digits(), METADATA)"
    )
    write(tmp_path / "a.safetensors", digits(), METADATA)
    write(tmp_path / "b.safetensors", digits(), METADATA)
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", program, here, tmp_path / "c.safetensors"], check=True)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


# Whole or not at all --------------------------------------------------------------------------------------------


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"exists already; overwrite it with --force or choose another --out"):
        write(path, digits(), METADATA)
    assert path.read_text() == "mine"
    write(path, digits(), METADATA, force=True)
    assert read(path).metadata == read(path).metadata
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("mine")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="cannot be written: No space left on device; choose another --out"):
        write(path, digits(), METADATA, force=True)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    for place, what in [
        ("nowhere/m.safetensors", "does not exist"),
        ("file/m.safetensors", "does not exist|Not a directory"),
        ("folder.safetensors", "is a folder"),
        ("model.pt", r"ends in \.safetensors"),
        ("m" * 300 + ".safetensors", "File name too long"),
        ("m\0.safetensors", "cannot be written|does not exist"),
    ]:
        with pytest.raises(UsageError, match=what):
            check_writable(tmp_path / place, force=True)
    check_writable(tmp_path / "m.safetensors", force=False)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.safetensors"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        check_writable(tmp_path / "m.safetensors", force=False)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder where even root cannot write")
def test_a_folder_where_nobody_can_write() -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        check_writable("/proc/self/m.safetensors", force=False)


# Files that do not fit ------------------------------------------------------------------------------------------


def does_not_fit(folder: Path, module: nn.Module, metadata: Metadata = METADATA) -> str:
    write(folder / "m.safetensors", module, metadata, force=True)
    with pytest.raises(CheckpointError) as caught:
        load(folder / "m.safetensors")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_error_names_the_tensors_and_the_nearest_architecture(tmp_path: Path) -> None:
    message = does_not_fit(tmp_path, DigitsResNet(num_classes=3))
    assert "fc.weight: 3x64 for 10x8" in message
    assert "missing" not in message
    assert "nearest: zoo:digits_resnet, num_classes=3 (100 % of its tensors)" in message
    message = does_not_fit(tmp_path, MLP())
    assert "missing (stem.0.weight, stem.1.weight, stem.1.bias and " in message
    assert "6 unexpected (layers.0.bias," in message


def test_integers_are_not_taken_for_weights(tmp_path: Path) -> None:
    state = {n: t.to(torch.int8) if n == "fc.weight" else t for n, t in digits().state_dict().items()}
    header = {"extcon.arch": '"zoo:digits_resnet"', "extcon.kwargs": '{"widths": [4, 8], "blocks": 1}'}
    safetensors.torch.save_file(state, tmp_path / "m.safetensors", header)
    with pytest.raises(CheckpointError, match=r"fc\.weight: 10x8 int8 for 10x8"):
        load(tmp_path / "m.safetensors")


def test_a_plan_that_is_none(tmp_path: Path) -> None:
    for plan in ({}, {"format": 1, "cuts": [{"parameter": "x"}], "folds": []}, {"cuts": 3}):
        assert "removal plan" in does_not_fit(tmp_path, digits(), METADATA.model_copy(update={"plan": plan}))


def test_metadata_without_an_architecture(tmp_path: Path) -> None:
    assert "does not name its architecture" in does_not_fit(tmp_path, digits(), Metadata(arch=None))


def test_metadata_with_an_unknown_architecture(tmp_path: Path) -> None:
    assert "did you mean zoo:mlp" in does_not_fit(tmp_path, digits(), Metadata(arch="zoo:mlpp"))
    assert "would fetch weights" in does_not_fit(
        tmp_path, digits(), Metadata(arch="torchvision:resnet18", kwargs={"weights": "DEFAULT"})
    )


def test_a_plain_checkpoint_is_identified(tmp_path: Path) -> None:
    module = DigitsResNet(num_classes=4).eval()
    torch.save({"state_dict": {f"module.{n}": t for n, t in module.state_dict().items()}}, tmp_path / "m.pt")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load(tmp_path / "m.pt")(x), module(x))
    torch.save(MLP().state_dict(), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"fits no architecture.*model\.arch"):
        load(tmp_path / "m.pt")


def test_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    state = {n: t for n, t in digits().state_dict().items() if "num_batches" not in n}
    header = {"extcon.arch": '"zoo:digits_resnet"', "extcon.kwargs": '{"widths": [4, 8], "blocks": 1}'}
    safetensors.torch.save_file(state, tmp_path / "m.safetensors", header)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load(tmp_path / "m.safetensors")(x), digits()(x))


# Damaged metadata -----------------------------------------------------------------------------------------------

DAMAGED = [
    ("arch", "zoo:digits_resnet"),  # not JSON
    ("arch", "3"),
    ("kwargs", "[]"),
    ("kwargs", '{"a": NaN}'),
    ("kwargs", "[" * 10**5),
    ("input_shape", "[0, 8]"),
    ("input_shape", "[]"),
    ("input_shape", "[1000000, 1000000]"),
    ("input_shape", '["8"]'),
    ("input_shape", "[1, 1, 1, 1, 1, 1, 1, 1, 1]"),
    ("plan", "[3]"),
    ("history", "{}"),
    ("classes", "-1"),
    ("classes", "[1]"),
    ("classes", "9" * 5000),
    ("normalize", '{"mean": [0.5], "std": [0]}'),
    ("version", "1"),
]


@pytest.mark.parametrize(("key", "text"), DAMAGED)
def test_damaged_metadata(tmp_path: Path, key: str, text: str) -> None:
    header = {"extcon.arch": '"zoo:digits_resnet"', f"extcon.{key}": text}
    safetensors.torch.save_file(digits().state_dict(), tmp_path / "m.safetensors", header)
    with pytest.raises(CheckpointError, match=f"metadata are damaged: extcon.{key}") as caught:
        read(tmp_path / "m.safetensors")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_huge_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extcon_cli.checkpoint.metadata.LARGEST", 2**20)
    header = {"extcon.arch": '"' + "x" * 2**20 + '"'}
    safetensors.torch.save_file(digits().state_dict(), tmp_path / "m.safetensors", header)
    with pytest.raises(CheckpointError, match="more than 1 MiB"):
        read(tmp_path / "m.safetensors")


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_text_as_metadata_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, key: str, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    safetensors.torch.save_file({"w": torch.ones(1)}, path, {f"extcon.{key}": text, "extcon.arch": "null"})
    with contextlib.suppress(CheckpointError):
        read(path)


def test_what_a_newer_version_adds_is_ignored(tmp_path: Path) -> None:
    header = {"extcon.arch": '"zoo:mlp"', "extcon.novelty": "[1, 2]"}
    safetensors.torch.save_file(MLP().state_dict(), tmp_path / "m.safetensors", header)
    assert isinstance(load(tmp_path / "m.safetensors"), MLP)
