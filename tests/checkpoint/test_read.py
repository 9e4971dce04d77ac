"""Reading: what is accepted, in every wrapping; and one hostile file for each refusal."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from extcon_cli.checkpoint.read import read
from extcon_cli.errors import CheckpointError

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}


def saved(folder: Path, content: object, name: str = "model.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def assert_is_state(state: dict[str, Tensor]) -> None:
    assert list(state) == list(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def refused(path: Path, *, trust_pickle: bool = False) -> str:
    """The one line that says why."""
    with pytest.raises(CheckpointError) as caught:
        read(path, trust_pickle=trust_pickle)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# What goes in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".th"])
@pytest.mark.parametrize("legacy", [False, True])
def test_reads_what_torch_saves(tmp_path: Path, suffix: str, legacy: bool) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    checkpoint = read(path)
    assert_is_state(checkpoint.state)
    assert checkpoint.metadata is None
    assert checkpoint.module is None
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_reads_safetensors_from_elsewhere_whatever_its_name(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model.bin", {"format": "pt", "author": "someone"})
    checkpoint = read(str(tmp_path / "model.bin"))
    assert checkpoint.state.keys() == STATE.keys()
    assert checkpoint.metadata is None


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "ema", "net", "weights_of_mine"])
@pytest.mark.parametrize("inner", [None, "state_dict", "module"])
def test_finds_the_state_dict_under_a_key_and_one_deeper(tmp_path: Path, key: str, inner: str | None) -> None:
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 3, key: {inner: STATE} if inner else STATE, "optimizer": optimizer}
    if key == "weights_of_mine" and inner:
        content = {key: content[key]}
    assert_is_state(read(saved(tmp_path, content)).state)


def test_of_several_state_dicts_the_conventional_first_and_averages_last(tmp_path: Path) -> None:
    average = {name: tensor + 1 for name, tensor in STATE.items()}
    assert_is_state(read(saved(tmp_path, {"ema": average, "model_ema": average, "net": STATE})).state)
    assert_is_state(read(saved(tmp_path, {"ema": STATE, "epoch": torch.tensor(3)})).state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "module.model."])
def test_takes_off_a_prefix_that_all_names_carry(tmp_path: Path, prefix: str) -> None:
    assert_is_state(read(saved(tmp_path, {prefix + name: t for name, t in STATE.items()})).state)


def test_leaves_a_prefix_that_only_some_names_carry(tmp_path: Path) -> None:
    mixed = {"module.fc.weight": torch.ones(2), "head.weight": torch.ones(2)}
    assert read(saved(tmp_path, mixed)).state.keys() == mixed.keys()


def test_takes_off_the_counter_of_an_averaged_model(tmp_path: Path) -> None:
    average = torch.optim.swa_utils.AveragedModel(nn.Linear(3, 2))
    assert "n_averaged" not in read(saved(tmp_path, average.state_dict())).state


def test_ignores_what_is_not_a_tensor(tmp_path: Path) -> None:
    settings = argparse.Namespace(lr=0.1)  # in many training scripts' files; it runs no code
    state = OrderedDict(STATE, _extra_state=None, epoch=3)
    assert_is_state(read(saved(tmp_path, {"args": settings, "best": 0.9, "state_dict": state})).state)


def test_parameters_come_back_as_plain_tensors(tmp_path: Path) -> None:
    state = read(saved(tmp_path, dict(nn.Linear(3, 2).named_parameters()))).state
    assert all(type(tensor) is Tensor and not tensor.requires_grad for tensor in state.values())


@given(st.integers(0, 3), st.sampled_from(["module.", "_orig_mod."]))
def test_any_depth_of_wrapping_comes_off(depth: int, prefix: str) -> None:
    from extcon_cli.checkpoint.state import strip

    stripped, taken = strip({prefix * depth + name: tensor for name, tensor in STATE.items()})
    assert taken == prefix * depth
    assert_is_state(stripped)


@pytest.mark.parametrize("name", ["mine.pt", "model.safetensors", "pytorch_model.bin"])
def test_of_a_folder_the_checkpoint_in_it_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(STATE, tmp_path / name)
    else:
        saved(tmp_path, STATE, name)
    if name != "mine.pt":
        saved(tmp_path, {"other": torch.ones(1)}, "optimizer.pt")
    checkpoint = read(tmp_path)
    assert checkpoint.path == tmp_path / name
    assert checkpoint.state.keys() == STATE.keys()


# What is refused, and how -----------------------------------------------------------------------------------------


def test_missing_names_the_nearest(tmp_path: Path) -> None:
    path = saved(tmp_path, STATE, "model.pt")
    assert f"Did you mean {path}?" in refused(tmp_path / "modle.pt")
    assert "no such file" in refused(tmp_path / "nowhere" / "model.pt")


def test_an_address_is_not_fetched() -> None:
    assert "is an address, and extcon downloads nothing" in refused(Path("https://example.org/model.pt"))


def test_a_folder_with_no_checkpoint_or_with_several(tmp_path: Path) -> None:
    assert "is a folder with no checkpoint file" in refused(tmp_path)
    for name in ("a.pt", "b.pth"):
        saved(tmp_path, STATE, name)
    assert "is a folder with several checkpoints (a.pt, b.pth)" in refused(tmp_path)


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read("model\0.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read("m" * 5000)


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, STATE)

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "cannot be read: Permission denied" in refused(path)


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    assert "is empty" in refused(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_cut_off(tmp_path: Path, form: str, share: float) -> None:
    path = tmp_path / "model.pt"
    state = {"weight": torch.randn(100, 100)}
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "cut off or damaged" in refused(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "HTML page"),
        (b"<html><body>Sign in</body></html>", "HTML page"),
        (b"epoch,loss\n1,0.5\n", "text file"),
        ("größe: 3\n".encode(), "text file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "JPEG image"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        (b"GGUF" + bytes(20), "GGUF"),
        (b"\x01\x02\x03", "not a checkpoint"),
        (bytes(1000), "not a checkpoint"),
        (struct.pack("<Q", 2**60) + b"{" + bytes(50), "not a checkpoint"),
        (struct.pack("<Q", 2) + b"{}", "no tensors"),
        (struct.pack("<Q", 2) + b"{x", "damaged safetensors"),
    ],
)
def test_not_a_checkpoint(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert what in refused(tmp_path / "model.pt")


@given(st.binary(min_size=1, max_size=200), st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]))
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.pt"
    path.write_bytes(start + content)
    refused(path)
    refused(path)


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a zip archive, but not by torch.save" in refused(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "model.pt"))
    assert "TorchScript" in refused(tmp_path / "model.pt")


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(10**6))
    assert "unpacks to more than" in refused(path)


class Bomb:
    """Its unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("where", ["beside", "alone", "key"])
def test_code_is_not_run(tmp_path: Path, legacy: bool, where: str) -> None:
    bomb = Bomb(tmp_path / "ran")
    content = {"beside": {**STATE, "x": bomb}, "alone": bomb, "key": {"state_dict": STATE, "args": bomb}}[where]
    path = tmp_path / "model.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    message = refused(path)
    assert "--trust-pickle" in message
    assert "may run any code" in message
    assert not bomb.path.exists()


def test_a_plain_pickle(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"weight": [1.0, 2.0]}))
    assert "not one that torch.save wrote" in refused(path)
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    assert "not one that torch.save wrote" in refused(path, trust_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_only_when_trusted(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2))
    for content in (module, {"model": module, "epoch": 3}):
        path = saved(tmp_path, content)
        assert "--trust-pickle" in refused(path)
        checkpoint = read(path, trust_pickle=True)
        assert isinstance(checkpoint.module, nn.Sequential)
        assert torch.equal(checkpoint.state["0.weight"], module[0].weight)


def test_a_pickled_module_whose_class_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere.py").write_text("import torch\nclass Net(torch.nn.Linear): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from elsewhere import Net  # type: ignore[import-not-found]

    path = saved(tmp_path, Net(2, 2))
    monkeypatch.delitem(sys.modules, "elsewhere")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    assert "cannot be imported here: No module named 'elsewhere'" in refused(path, trust_pickle=True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({}, "no tensors"),
        ({"epoch": 3, "lr": 0.1}, "no tensors inside, only epoch, lr"),
        ({"state_dict": {}}, "no tensors"),
        ({0: torch.ones(2)}, "no tensors"),
        ([torch.ones(2)], "holds list"),
        (torch.ones(2), "holds Tensor"),
        (3, "holds int"),
        ({"generator": STATE, "critic": STATE}, "several state dicts (generator, critic)"),
        ({"w": torch.ones(2, device="meta")}, "w is not plain numbers (meta"),
        ({"w": torch.eye(2).to_sparse()}, "w is not plain numbers (cpu, torch.sparse_coo)"),
    ],
)
def test_no_state_dict_inside(tmp_path: Path, content: object, what: str) -> None:
    assert what in refused(saved(tmp_path, content))


@pytest.mark.filterwarnings("ignore")
def test_quantized(tmp_path: Path) -> None:
    tensor = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    assert "quantized" in refused(saved(tmp_path, {"w": tensor}))


def test_names_from_a_file_cannot_mess_up_the_message(tmp_path: Path) -> None:
    name = "\x1b[31mred\nline" + "x" * 10**5
    message = refused(saved(tmp_path, {name: torch.ones(2, device="meta")}))
    assert len(message) < 400
    assert "\x1b" not in message


def test_nothing_but_the_file_is_opened(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    (tmp_path / "model.pt").write_bytes(buffer.getvalue())
    read(tmp_path / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
