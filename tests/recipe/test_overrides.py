"""`--set key.path=value`: values are YAML, sections are made on the way, errors name the option."""

from __future__ import annotations

import pytest

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.check import check
from extcon_cli.recipe.document import read
from extcon_cli.recipe.load import from_dict, resolve
from extcon_cli.recipe.overrides import override
from extcon_cli.recipe.schema import Recipe


def changed(*overrides: str, text: str = "{}") -> Recipe:
    return check(override(read(text, "r.yaml"), overrides))


def complaint(*overrides: str, text: str = "{}") -> list[str]:
    with pytest.raises(RecipeError) as caught:
        changed(*overrides, text=text)
    return str(caught.value).splitlines()


def test_a_nested_key() -> None:
    assert changed("prune.finetune.optimizer.lr=3e-4").prune.finetune.optimizer.lr == 3e-4


def test_a_key_in_the_file_gives_way() -> None:
    assert changed("seed=2", text="seed: 1").seed == 2


def test_the_last_of_several_wins() -> None:
    assert changed("seed=2", "seed=3").seed == 3


def test_values_are_yaml() -> None:
    recipe = changed(
        "model.input_shape=[1, 8, 8]",
        "model.kwargs={num_classes: 10, widths: [4, 8]}",
        "train.mixed_precision=no",
        "prune.finetune.distill=null",
        "data.dataset=digits",
        "data.root=",
    )
    assert recipe.model.input_shape == (1, 8, 8)
    assert recipe.model.kwargs == {"num_classes": 10, "widths": [4, 8]}
    assert recipe.train.mixed_precision == "no"
    assert recipe.prune.finetune.distill is None
    assert recipe.data is not None
    assert recipe.data.root is None


def test_a_value_may_hold_an_equals_sign() -> None:
    assert changed("model.kwargs.a=b=c").model.kwargs == {"a": "b=c"}


def test_entries_of_lists_are_numbered_and_the_next_number_appends() -> None:
    text = "data: {dataset: digits, normalize: {mean: [0.1, 0.2], std: [1, 1]}}"
    recipe = changed("data.normalize.mean.1=0.5", "prune.decide.keep.0=a.*", "prune.decide.keep.1=b", text=text)
    assert recipe.data is not None
    assert recipe.data.normalize is not None
    assert recipe.data.normalize.mean == (0.1, 0.5)
    assert recipe.prune.decide.keep == ("a.*", "b")


def test_an_entry_of_a_default_list() -> None:
    assert changed("train.optimizer.betas.0=0.8").train.optimizer.betas == (0.8, 0.999)


def test_a_section_that_is_null_is_made() -> None:
    recipe = changed("data.dataset=digits", "prune.finetune.distill.temperature=2", text="data: null")
    assert recipe.data is not None
    assert recipe.data.dataset == "digits"
    assert recipe.prune.finetune.distill is not None
    assert recipe.prune.finetune.distill.temperature == 2


@pytest.mark.parametrize("text", ["train: {epochs: 3}", "train: {steps: 3}", "train: {epochs: 3, steps: null}", "{}"])
def test_one_length_replaces_the_other(text: str) -> None:
    in_steps, in_epochs = changed("train.steps=5", text=text).train, changed("train.epochs=5", text=text).train
    assert (in_steps.epochs, in_steps.steps) == (None, 5)
    assert (in_epochs.epochs, in_epochs.steps) == (5, None)


def test_other_steps_are_no_length() -> None:
    recipe = changed("prune.score.steps=5", "model.kwargs.steps=3", text="model: {kwargs: {epochs: 1}}")
    assert recipe.prune.score.steps == 5
    assert recipe.model.kwargs == {"epochs": 1, "steps": 3}


def test_the_document_given_is_left_as_it_is() -> None:
    document = read("train: {epochs: 1}", "r.yaml")
    override(document, ["train.steps=5", "seed=3"])
    assert document.values == {"train": {"epochs": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune.ratio=abc", "--set prune.ratio: should be a number, not 'abc'"),
        ("prune.ratio=1", "--set prune.ratio: should be less than 1, not 1"),
        ("train.optimzer.lr=1", "--set train.optimzer.lr: train.optimzer: unknown key (did you mean 'optimizer'?)"),
        ("train.optimizer.lrr=1", "--set train.optimizer.lrr: unknown key (did you mean 'lr'?)"),
        ("sed=1", "--set sed: unknown key (did you mean 'seed'?)"),
        ("seed", "--set seed: should look like train.epochs=5"),
        ("=1", "--set =1: should look like train.epochs=5"),
        ("train..epochs=1", "--set train..epochs=1: should look like train.epochs=5"),
        ("seed.x=1", "--set seed.x: `seed` is a single value, so it has no 'x'"),
        (
            "model.input_shape.5=1",
            "--set model.input_shape.5: `model.input_shape` is a list of 2, so it has no '5'",
        ),
        (
            "model.input_shape.x=1",
            "--set model.input_shape.x: `model.input_shape` is a list of 2, so it has no 'x'",
        ),
        ("train.epochs=[1", "--set train.epochs: broken YAML: "),
        ("train.epochs={a: 1, a: 2}", "--set train.epochs: train.epochs.a: given twice"),
        ("train={epochs: no}", "--set train: train.epochs: should be a number, not 'no'"),
        ("data.root=x", "--set data.root: data.dataset: is missing"),
    ],
)
def test_an_error_names_the_option(text: str, message: str) -> None:
    found = complaint(text, text="{seed: 0, model: {input_shape: [8, 8]}}")
    assert found[0].startswith(message)


def test_problems_of_file_and_options_come_together() -> None:
    assert complaint("seed=x", "prune.ratio=2", text="tain: {}") == [
        "r.yaml:1: tain: unknown key (did you mean 'train'?)",
        "--set prune.ratio: should be less than 1, not 2",
        "--set seed: should be a whole number, not 'x'",
    ]


def test_an_override_of_a_wrong_value_in_the_file_mends_it() -> None:
    assert changed("seed=1", text="seed: [oops]").seed == 1


def test_plain_values_take_overrides_too() -> None:
    assert from_dict({"seed": 1}, overrides=["seed=2"]).seed == 2


def test_a_target_and_a_ratio_replace_each_other() -> None:
    assert resolve("prune", overrides=["prune.target.macs=0.5"]).recipe.prune.ratio is None
    back = resolve("prune", overrides=["prune.target.macs=0.5", "prune.ratio=0.3"]).recipe.prune
    assert (back.ratio, back.target) == (0.3, None)
