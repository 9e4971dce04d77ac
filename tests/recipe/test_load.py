"""Where the recipe comes from, how files that are no recipe are refused, and that dump and load are inverse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.bundled import bundled
from extcon_cli.recipe.check import check
from extcon_cli.recipe.document import read
from extcon_cli.recipe.load import dump, find, from_dict, load, resolve, to_dict
from extcon_cli.recipe.schema import Recipe


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def file(name: str, text: str | bytes) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


class TestDiscovery:
    """--recipe, else the sidecar, else the recipe in the checkpoint, else the bundled default; one alone."""

    def everything(self) -> dict[str, Any]:
        return {
            "recipe": file("mine.yaml", "seed: 1"),
            "checkpoint": file("model.yaml", "seed: 2").with_suffix(".pt"),
            "embedded": {"seed": 3},
        }

    def test_the_argument_comes_first(self) -> None:
        found = resolve("prune", **self.everything())
        assert (found.recipe.seed, found.source, found.path) == (1, "argument", Path("mine.yaml"))

    def test_then_the_sidecar(self) -> None:
        found = resolve("prune", **self.everything() | {"recipe": None})
        assert (found.recipe.seed, found.source, found.path) == (2, "sidecar", Path("model.yaml"))

    def test_then_the_recipe_in_the_checkpoint(self) -> None:
        found = resolve("prune", checkpoint=Path("model.pt"), embedded={"seed": 3})
        assert (found.recipe.seed, found.source, found.path) == (3, "embedded", None)

    def test_then_the_bundled_default_of_the_method(self) -> None:
        found = resolve("prune", checkpoint=Path("model.pt"))
        assert (found.source, found.path) == ("bundled", bundled()["prune/default"])

    def test_then_the_defaults_of_the_schema(self) -> None:
        found = resolve("evaluate")
        assert (found.recipe, found.source, found.path) == (Recipe(), "bundled", None)

    def test_a_file_stands_alone(self) -> None:
        assert resolve("prune", recipe=file("mine.yaml", "prune: {ratio: 0.3}")).recipe == from_dict(
            {"prune": {"ratio": 0.3}}
        )

    @pytest.mark.parametrize("name", ["prune/digits_resnet", "digits_resnet"])
    def test_a_bundled_name_may_leave_out_the_method(self, name: str) -> None:
        found = resolve("prune", recipe=name)
        assert (found.source, found.path) == ("bundled", bundled()["prune/digits_resnet"])

    def test_overrides_reach_each_source(self) -> None:
        everything = self.everything()
        for found in (everything, everything | {"recipe": None}, {"embedded": {"seed": 3}}, {}):
            assert resolve("prune", **found, overrides=["seed=9"]).recipe.seed == 9
        assert everything["embedded"] == {"seed": 3}

    def test_a_checkpoint_is_not_its_own_sidecar(self) -> None:
        assert resolve("prune", checkpoint=file("model.yaml", "seed: 2")).source == "bundled"


class TestErrors:
    def test_an_unknown_name_leads_to_the_nearest(self) -> None:
        with pytest.raises(RecipeError, match=r"^prune/digit_resnet: no such file.*mean 'prune/digits_resnet'\?"):
            find("prune/digit_resnet")

    def test_a_name_like_none(self) -> None:
        with pytest.raises(RecipeError, match=r"^qqq.yaml: no such file.*`extcon recipe list`"):
            find("qqq.yaml")

    def test_an_embedded_recipe_names_its_checkpoint(self) -> None:
        with pytest.raises(RecipeError, match=r"^the recipe in a\.safetensors: sed: unknown key"):
            resolve("prune", checkpoint=Path("a.safetensors"), embedded={"sed": 3})

    @pytest.mark.parametrize("text", ["names: [cat, dog]", "a: [1"])
    def test_a_sidecar_of_another_tool_shows_the_way_round(self, text: str) -> None:
        file("model.yaml", text)
        with pytest.raises(RecipeError, match=r"\nmodel.yaml lies beside the checkpoint; --recipe takes another one"):
            resolve("prune", checkpoint=Path("model.pt"))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "r.yaml: is empty"),
            (b"# only a comment\n", "r.yaml: is empty"),
            (b"- a\n- b\n", "r.yaml:1: should be a section of keys, not ['a', 'b']"),
            (b"\x89PNG\r\n\x1a\n\xff\xfe", "r.yaml: is not a recipe: not UTF-8 text"),
            ("seed: 1 # größer".encode("latin-1"), "r.yaml: is not a recipe: not UTF-8 text"),
            ("seed: 1".encode("utf-16"), "r.yaml: is not a recipe: not UTF-8 text"),
            (b"PK\x03\x04\x00\x00", "r.yaml: broken YAML: it holds characters that no text file has"),
            (b"\0" * 300_000, "r.yaml: is not a recipe: larger than 256 KiB"),
            (b"seed: 1\n\ttrain: 2\n", "r.yaml:2: broken YAML: "),
            (b"seed: [1\n", "r.yaml:2: broken YAML: "),
        ],
    )
    def test_a_file_that_is_no_recipe(self, content: bytes, message: str) -> None:
        with pytest.raises(RecipeError) as caught:
            load(file("r.yaml", content))
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)

    def test_a_folder(self) -> None:
        Path("folder").mkdir()
        with pytest.raises(RecipeError, match=r"^folder: is a folder, not a recipe$"):
            resolve("prune", recipe="folder")

    def test_an_unreadable_file(self) -> None:
        with pytest.raises(RecipeError, match=r"^gone.yaml: cannot be read: No such file"):
            load(Path("gone.yaml"))


def test_a_byte_order_mark_and_windows_lines_do_not_matter() -> None:
    assert load(file("r.yaml", b"\xef\xbb\xbfseed: 1\r\ntask: regression\r\n")).seed == 1


def test_a_recipe_may_be_json() -> None:
    assert load(file("r.json", json.dumps(to_dict(Recipe())))) == Recipe()


class TestPlaces:
    """`file.py:function` means the file beside the recipe; `~` in data.root the home folder."""

    TEXT = "model: {arch: 'net.py:build'}\ndata: {dataset: 'sub/data.py:make', root: ~/data}"

    def test_functions_are_looked_for_beside_the_recipe(self) -> None:
        recipe = load(file("folder/r.yaml", self.TEXT))
        assert recipe.model.arch == str(Path("folder/net.py")) + ":build"
        assert recipe.data is not None
        assert recipe.data.dataset == str(Path("folder/sub/data.py")) + ":make"

    def test_an_absolute_file_stays(self, tmp_path: Path) -> None:
        arch = f"{tmp_path / 'net.py'}:build"
        assert load(file("folder/r.yaml", f"model: {{arch: '{arch}'}}")).model.arch == arch

    def test_an_option_means_the_current_folder(self) -> None:
        assert load(file("folder/r.yaml", self.TEXT), ["model.arch=net.py:build"]).model.arch == "net.py:build"

    @pytest.mark.parametrize("arch", ["zoo:digits_resnet", "torchvision:resnet18", "package.module:factory"])
    def test_other_architectures_stay(self, arch: str) -> None:
        assert load(file("folder/r.yaml", f"model: {{arch: '{arch}'}}")).model.arch == arch

    def test_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/somewhere")
        monkeypatch.setenv("USERPROFILE", "/somewhere")
        for recipe in (load(file("r.yaml", self.TEXT)), load(Path("r.yaml"), ["data.root=~/data"])):
            assert recipe.data is not None
            assert recipe.data.root == "/somewhere/data"


positive = st.floats(1e-300, 1e300)
share = st.floats(0, 1, exclude_min=True, exclude_max=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
lengths = st.one_of(
    st.fixed_dictionaries({"epochs": positive}), st.fixed_dictionaries({"steps": st.integers(1)}), st.just({})
)
optimizers = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["sgd", "adam", "adamw"]),
        "lr": positive,
        "weight_decay": st.floats(0, 1e9),
        "betas": st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=2),
    },
)
recipes = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries(
            {},
            optional={
                "arch": st.sampled_from([None, "zoo:mlp", "a.b:c", "3e-4:no"]),
                "kwargs": st.dictionaries(st.text(), json_values, max_size=3),
                "input_shape": st.none() | st.lists(st.integers(1), min_size=1, max_size=4),
            },
        ),
        "data": st.none()
        | st.fixed_dictionaries(
            {"dataset": st.text(min_size=1), "root": st.none() | st.text(min_size=1)},
            optional={"normalize": st.just({"mean": [0.5], "std": [1]}), "download": st.booleans()},
        ),
        "train": lengths,
        "prune": st.fixed_dictionaries(
            {"ratio": share},
            optional={
                "finetune": st.builds(
                    lambda length, rest: length | rest,
                    lengths,
                    st.fixed_dictionaries({}, optional={"optimizer": optimizers, "distill": st.none()}),
                ),
                "bifurcate": lengths,
                "decide": st.fixed_dictionaries({"keep": st.lists(st.text(min_size=1), max_size=3)}),
            },
        ),
        "seed": st.integers(0, 2**32 - 1),
    },
)


@given(recipes)
def test_dump_and_load_are_inverse(values: dict[str, Any]) -> None:
    recipe = from_dict(values)
    assert check(read(dump(recipe), "r.yaml")) == recipe
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_dump_is_made_of_plain_lines() -> None:
    text = dump(from_dict({"model": {"input_shape": [1, 8, 8]}}))
    assert "input_shape: [1, 8, 8]\n" in text
    assert "mixed_precision: 'no'\n" in text
    assert "!!" not in text


def test_recipes_answer_without_torch() -> None:
    code = (
        "import sys; from extcon_cli.recipe.load import resolve; import extcon_cli.cli.recipe;"
        "import extcon_cli.recipe.reference; resolve('prune', recipe='prune/digits_resnet');"
        "print(sorted({'torch', 'torchvision', 'numpy', 'accelerate', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_recipe_in_a_checkpoint_fetches_nothing():
    """Whoever made the file could have data fetched, and written to a place of their choice."""
    embedded = {"data": {"dataset": "cifar10", "root": "/tmp/there", "download": True}}
    assert resolve("prune", embedded=embedded).recipe.data.download is False
    asked = resolve("prune", embedded=embedded, overrides=["data.download=true"])
    assert asked.recipe.data.download is True
    assert embedded["data"]["download"] is True
