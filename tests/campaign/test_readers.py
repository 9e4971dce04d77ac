"""Damaged files against every reader, in this process: each is refused by an error of extcon's, and nothing else.

The default run takes a few cases; `pytest -m slow tests/campaign` takes 10,000 for each reader. A case is a valid file
with bytes changed, cut out, doubled or put in.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extcon_cli.checkpoint.architectures import build
from extcon_cli.checkpoint.header import read_header
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.read import read
from extcon_cli.checkpoint.write import write
from extcon_cli.errors import ExtconError
from extcon_cli.recipe.check import check
from extcon_cli.recipe.document import read as read_recipe
from extcon_cli.recipe.schema import Recipe
from extcon_cli.training.run_directory import RunDirectory

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
    """With all that extcon says of it."""
    kwargs = {"in_features": 4, "widths": [3], "num_classes": 2}
    said = Metadata(arch="zoo:mlp", kwargs=kwargs, input_shape=(4,), recipe={"seed": 1}, history=({"a": [1]},))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        write(path, build("zoo:mlp", kwargs), said)
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
    "state of a run": (kept_state, "a.pt", read_state),
    "recipe": (lambda: RECIPE, "a.yaml", lambda path: check(read_recipe(path.read_text(errors="replace"), "a.yaml"))),
}


def campaign(name: str, cases: int) -> None:
    """So many damaged files for one reader."""
    make, file, reader = READERS[name]
    content = make()
    with TemporaryDirectory() as folder:
        path = Path(folder) / file

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(damages)
        def case(damage: Damage) -> None:
            path.write_bytes(damaged(content, damage))
            with contextlib.suppress(ExtconError):
                reader(path)

        case()


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused(name: str) -> None:
    campaign(name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_refused(name: str) -> None:
    campaign(name, MANY)


def test_a_campaign_finds_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(path: Path) -> None:
        if path.read_bytes() != RECIPE:
            raise ZeroDivisionError

    monkeypatch.setitem(READERS, "recipe", (lambda: RECIPE, "a.yaml", fragile))
    with pytest.raises(ZeroDivisionError):
        campaign("recipe", FEW)
