"""A small file may not ask for much memory: refused at once, before the memory is taken."""

from __future__ import annotations

import io
import json
import pickle
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models  # noqa: F401 - its import is not what is timed
from torch import nn

from extcon_cli import memory
from extcon_cli.checkpoint.architectures import build
from extcon_cli.checkpoint.load import load
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.read import read
from extcon_cli.checkpoint.write import write
from extcon_cli.cli.options import set_memory
from extcon_cli.errors import CheckpointError, ExtconError, RecipeError, UsageError
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.recipe.document import read as read_recipe
from extcon_cli.recipe.schema import Recipe


@pytest.fixture(autouse=True)
def two_gigabytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The limit; and no refusal takes a second of the processor, or much memory."""
    monkeypatch.setenv(memory.VARIABLE, "2GB")
    tracemalloc.start()
    began = time.process_time()
    yield
    assert time.process_time() - began < 3  # tracemalloc makes it slower
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


class Call:
    """Pickled as a call of something that torch.load lets a file call."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def zipped(path: Path, content: object) -> Path:
    """A file as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(content, 2))
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
    return path


def broken_after_the_bomb(path: Path) -> None:
    """The pickle ends in what is no opcode; by then the bomb has gone off."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(Call(bytearray, 5 * 10**9), 2)[:-1] + b"\xff.")
        archive.writestr("a/version", "3\n")


def length_that_lies(path: Path) -> None:
    """5 GB are said to follow in the pickle."""
    file = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    content = file.getvalue()
    at = content.index(b"X\x01\x00\x00\x00w")
    path.write_bytes(content[:at] + b"\x8d" + (5 * 10**9).to_bytes(8, "little") + content[at + 5 :])


def grown() -> dict[str, object]:
    text = "x" * 2_000_000
    return {"x": [Call(bytearray, text, "utf-8") for _ in range(1500)]}


BOMBS = {
    "an array of bytes": lambda path: zipped(path, {"w": torch.Size([1]), "x": Call(bytearray, 5 * 10**9)}),
    "many arrays of the same bytes": lambda path: zipped(path, grown()),
    "an array of bytes before the pickle breaks": broken_after_the_bomb,
    "a tensor of no numbers": lambda path: zipped(path, {"w": Call(torch.Tensor, 40_000, 40_000)}),
    "strides of 0": lambda path: torch.save({"w": torch.zeros(1).expand(100_000, 100_000)}, path),
    "masks with strides of 0": lambda path: torch.save(
        {f"w_{kind}": torch.zeros(1).expand(30_000, 30_000) for kind in ("orig", "mask")}, path
    ),
}


def test_a_length_that_lies_is_no_bomb(tmp_path: Path) -> None:
    length_that_lies(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        read(tmp_path / "a.pt")


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_that_asks_for_much_memory(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "bomb.pt"
    BOMBS[bomb](path)
    tracemalloc.reset_peak()
    with pytest.raises(CheckpointError, match=r"would (make a reader )?take"):
        read(path)


def test_files_that_torch_writes_are_read(tmp_path: Path) -> None:
    """Tied and expanded tensors, bytes beside them, the older format."""
    weight = torch.randn(10, 10)
    content = {"a": weight, "b": weight.t(), "ids": torch.arange(5).expand(2, -1), "raw": bytearray(b"x" * 1000)}
    for new in (True, False):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
        assert set(read(tmp_path / "a.pt").state) == {"a", "b", "ids"}


def written(path: Path, **metadata: Any) -> Path:
    write(path, nn.Linear(4, 3), Metadata(**{"arch": "zoo:mlp", "input_shape": (4,), **metadata}))
    return path


@pytest.mark.parametrize(
    ("arch", "kwargs"),
    [
        ("torchvision:resnet18", {"num_classes": 30_000_000}),
        ("torchvision:resnet18", {"num_classes": 9_000_000}),
        ("zoo:digits_resnet", {"blocks": 10**6}),
        ("zoo:mlp", {"in_features": 10**6, "widths": [10**6]}),
        ("zoo:digits_resnet", {"blocks": 10**9}),
    ],
)
def test_a_module_that_would_not_fit(tmp_path: Path, arch: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"would take .* or more|is too many"):
        build(arch, kwargs, tensors=40)
    with pytest.raises(CheckpointError, match=r"would take .* or more|is too many"):
        load(written(tmp_path / "a.safetensors", arch=arch, kwargs=kwargs))


def test_other_shapes_are_seen_before_there_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extcon_cli.checkpoint.load._nearest", lambda candidates: "")
    monkeypatch.setattr("extcon_cli.checkpoint.load.identify", lambda state: [])
    path = written(tmp_path / "a.safetensors", kwargs={"in_features": 20_000, "widths": [20_000]})
    with pytest.raises(CheckpointError, match="does not fit zoo:mlp"):
        load(path)


def test_the_draft_leaves_random_numbers_alone() -> None:
    torch.manual_seed(0)
    drafted = build("zoo:mlp", {})
    torch.manual_seed(0)
    from extcon_cli.checkpoint.zoo import ZOO

    plain = ZOO["mlp"].build()
    assert all(torch.equal(a, b) for a, b in zip(drafted.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(1, 16384, 16384), (1, 8000, 8000)])
def test_an_input_that_would_not_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "a.safetensors"
    write(path, build("zoo:digits_resnet", {}), Metadata(arch="zoo:digits_resnet", input_shape=(1, 8, 8)))
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["extcon.input_shape"] = json.dumps(shape)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(CheckpointError, match="input"):
        open_model(path, Recipe())


@pytest.mark.parametrize("depth", [70, 300, 5000, 100_000])
def test_deep_nesting_is_refused(tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    path = tmp_path / "a.safetensors"
    text = json.dumps({"__metadata__": {"extcon.arch": '"zoo:mlp"', "extcon.kwargs": f'{{"widths": {deep}}}'}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ExtconError):
        load(path)
    with pytest.raises(RecipeError, match="nested too deeply"):
        read_recipe(f"model: {{kwargs: {{widths: {deep}}}}}", "a.yaml")


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("512MiB", 2**29), ("1000", 1000), ("1.5 kB", 1500), ("2gb", 2 * 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert memory.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "1e9", "GB"])
def test_no_sizes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="amount of memory"):
        memory.parse_bytes(text)
    monkeypatch.setenv(memory.VARIABLE, text or "x")
    with pytest.raises(UsageError, match=memory.VARIABLE):
        memory.memory_limit()


def test_the_option_says_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="--max-memory: 'much' is no amount"):
        set_memory("much")
    set_memory("3GB")
    assert memory.memory_limit() == 3 * 10**9


def test_by_default_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.VARIABLE)
    assert 10**8 < memory.memory_limit() < 2**62
