"""Damaged files against every reader, in this process: each is refused by an error of extcon's, and nothing else.

The default run takes a few cases; `pytest -m slow tests/campaign` takes 10,000 for each reader. A case is a valid file
with bytes changed, cut out, doubled or put in. One that takes too long, or too much memory, or runs or fetches or
writes something, is found as well (tests/campaign/watched.py).
"""

from __future__ import annotations

import io
import json
import pickle
import socket
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from extcon_cli.channels import remove_zeros
from extcon_cli.checkpoint.architectures import build
from extcon_cli.checkpoint.folder import image_of, task_of
from extcon_cli.checkpoint.header import read_header
from extcon_cli.checkpoint.load import load
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.read import read
from extcon_cli.checkpoint.write import write
from extcon_cli.data.datasets import open_data
from extcon_cli.errors import ExtconError
from extcon_cli.pipelines.pruning.plan_file import read_plan
from extcon_cli.recipe.check import check
from extcon_cli.recipe.document import read as read_recipe
from extcon_cli.recipe.schema import DataSpec, Recipe
from extcon_cli.training.run_directory import RunDirectory

from . import watched
from .watched import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")

FEW, MANY = 25, 10_000
Damage = list[tuple[str, float, bytes]]

damages = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "put", "double"]), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, damage: Damage) -> bytes:
    """The content with each damage done, at a share of its length."""
    found = bytearray(content)
    for kind, share, data in damage:
        at = int(share * len(found))
        if kind == "set":
            found[at : at + len(data)] = data
        elif kind == "cut":
            del found[at : at + len(data) ** 2]
        elif kind == "put":
            found[at:at] = data
        else:
            found[at:at] = found[at : at + 64 * len(data)]
    return bytes(found)


@cache
def state() -> dict[str, torch.Tensor]:
    return build("zoo:mlp", {"in_features": 4, "widths": [3], "num_classes": 2}).state_dict()


def torch_file(new: bool) -> bytes:
    """What torch.save writes, in either of its formats."""
    file = io.BytesIO()
    torch.save({"state_dict": state(), "epoch": 3}, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def safetensors_file() -> bytes:
    """With all that extcon says of it, the plan by which it was made smaller among that."""
    kwargs = {"in_features": 4, "widths": [3], "num_classes": 2}
    module = build("zoo:mlp", kwargs).eval()
    with torch.no_grad():
        module.layers[0].weight[1], module.layers[0].bias[1] = 0, 0
    removal = remove_zeros(module, (torch.zeros(2, 4),))
    said = Metadata(
        arch="zoo:mlp", kwargs=kwargs, input_shape=(4,), recipe={"seed": 1}, history=({"a": [1]},),
        plan=removal.plan.to_json(),
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        write(path, removal.module, said)
        return path.read_bytes()


def kept_state() -> bytes:
    """Of a run that was interrupted."""
    with TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "o.run", Recipe(), {})
        run.begin(resume=False)
        run.save("train", {"x": torch.arange(5)})
        return (run.path / "state.pt").read_bytes()


def read_state(path: Path) -> object:
    """As `--resume` does."""
    folder = path.parent / "o.run"
    folder.mkdir(exist_ok=True)
    (folder / "state.pt").write_bytes(path.read_bytes())
    return RunDirectory(folder, Recipe(), {}).load()


def arrays() -> dict[str, numpy.ndarray]:
    return {"x": numpy.ones((6, 2, 2), "float32"), "y": numpy.arange(6) % 2}


def npz_file() -> bytes:
    file = io.BytesIO()
    numpy.savez_compressed(file, **arrays())
    return file.getvalue()


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (1, 200, 3)).save(file, "PNG")
    return file.getvalue()


def read_data(path: Path, dataset: str, task: str = "classification") -> object:
    """As training opens it."""
    return open_data(DataSpec(dataset=dataset, root=str(path), workers=0), task, measure=False)


def read_picture(path: Path) -> object:
    """The one that lies in one of two folders, with others."""
    for split in ("train", "test"):
        for label in "ab":
            place = path.parent / "pictures" / split / label
            place.mkdir(parents=True, exist_ok=True)
            (place / "a.png").write_bytes(picture())
    (path.parent / "pictures" / "train" / "a" / "a.png").write_bytes(path.read_bytes())
    spec = DataSpec(dataset="image_folder", root=str(path.parent / "pictures"), workers=0)
    return open_data(spec, "classification", input_shape=(3, 8, 8), measure=False)


def read_boxes(path: Path) -> object:
    """The list of the boxes in a folder with pictures."""
    folder = path.parent / "boxes"
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        (folder / f"{name}.png").write_bytes(picture())
    (folder / "a.json").write_bytes(path.read_bytes())
    return read_data(folder, "coco", "detection")


def read_configuration(path: Path) -> object:
    """What a folder of transformers says before it is opened."""
    (path.parent / "config.json").write_bytes(path.read_bytes())
    return task_of(path.parent), image_of(path.parent)


NONE = ("header", "configuration")
"""What cannot be read of these is as if it were not there."""
NAMES = "abcdefghij"
BOXES = {
    "images": [{"id": n, "file_name": f"{name}.png", "width": 9, "height": 7} for n, name in enumerate(NAMES)],
    "annotations": [{"image_id": n, "category_id": 1, "bbox": [1, 1, 3, 4]} for n in range(len(NAMES))],
    "categories": [{"id": 1, "name": "a"}],
}
CONFIGURATION = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": 32,
    "num_channels": 3,
}
PLAN = {"command": "plan", "groups": [{"name": "layers.0", "channels": 3, "remove": [1]}]}
RECIPE = b"""model: {arch: "zoo:mlp", kwargs: {widths: [3, 4]}, input_shape: [4]}
data: {dataset: digits, batch_size: 64, augment: {crop_padding: 1}}
prune:
  ratio: 0.5
  bifurcate: {epochs: 10}   # a comment
seed: 3
"""

READERS: dict[str, tuple[Callable[[], bytes], str, Callable[[Path], object]]] = {
    "state dict": (lambda: torch_file(True), "a.pt", read),
    "older state dict": (lambda: torch_file(False), "a.pt", read),
    "safetensors": (safetensors_file, "a.safetensors", read),
    "header": (safetensors_file, "a.safetensors", read_header),
    "module": (safetensors_file, "a.safetensors", load),
    "state of a run": (kept_state, "a.pt", read_state),
    "recipe": (lambda: RECIPE, "a.yaml", lambda path: check(read_recipe(path.read_text(errors="replace"), "a.yaml"))),
    "plan": (lambda: json.dumps(PLAN).encode(), "a.json", read_plan),
    "configuration": (lambda: json.dumps(CONFIGURATION).encode(), "a.json", read_configuration),
    "arrays": (npz_file, "a.npz", lambda path: read_data(path, "arrays")),
    "tensors": (
        lambda: save({name: torch.from_numpy(array) for name, array in arrays().items()}),
        "a.safetensors",
        lambda path: read_data(path, "arrays"),
    ),
    "table": (lambda: b"a,b,label\n" + b"1,2.5,0\n-3e2,4,1\n" * 3, "a.csv", lambda path: read_data(path, "csv")),
    "text": (lambda: b'{"text": "a \\u00b2", "label": 1}\n' * 4, "a.jsonl", lambda path: read_data(path, "text")),
    "boxes": (lambda: json.dumps(BOXES).encode(), "a.json", read_boxes),
    "picture": (picture, "a.png", read_picture),
}


def campaign(name: str, cases: int) -> Watch:
    """So many damaged files for one reader."""
    make, file, reader = READERS[name]
    content = make()
    with TemporaryDirectory() as folder:
        path, watch = Path(folder) / file, Watch(Path(folder))
        path.write_bytes(content)
        reader(path)  # as it is it can be read; and what is imported once is imported

        @settings(
            max_examples=cases, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(damages)
        def case(damage: Damage) -> None:
            path.write_bytes(damaged(content, damage))
            with watch.case(refusal=ExtconError):
                reader(path)

        with watch:
            case()
    return watch


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused(name: str) -> None:
    watch = campaign(name, FEW)
    assert watch.cases == FEW
    assert watch.refused or name in NONE


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_refused(name: str) -> None:
    print(f"{name}: {campaign(name, MANY)}")  # noqa: T201


@pytest.mark.parametrize(
    "does",
    [
        lambda path: 1 / 0,
        lambda path: time.sleep(9),
        lambda path: torch.empty(2**40),
        lambda path: pickle.loads(pickle.dumps(Path)),
        lambda path: Path("somewhere").write_text("x"),
        lambda path: socket.create_connection(("127.0.0.1", 1)),
    ],
    ids=["fails", "hangs", "takes memory", "unpickles", "writes", "fetches"],
)
def test_a_campaign_finds_what_it_looks_for(monkeypatch: pytest.MonkeyPatch, does: Callable[[Path], object]) -> None:
    def fragile(path: Path) -> None:
        if path.read_bytes() != RECIPE:
            does(path)

    monkeypatch.setattr(watched, "SECONDS", 0.1)
    monkeypatch.setitem(READERS, "recipe", (lambda: RECIPE, "a.yaml", fragile))
    with pytest.raises((ZeroDivisionError, watched.Found, MemoryError, RuntimeError)):
        campaign("recipe", FEW)
