"""Every problem of a recipe, in plain words, with its line and the nearest known key, all in one message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.check import check
from extcon_cli.recipe.document import Document, read
from extcon_cli.recipe.tree import fields


def complaint(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        check(read(text, "r.yaml"))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", "r.yaml:1: modle: unknown key (did you mean 'model'?)"),
        ("train: {optimzer: {}}", "r.yaml:1: train.optimzer: unknown key (did you mean 'optimizer'?)"),
        ("train: {Epochs: 1}", "r.yaml:1: train.Epochs: unknown key (did you mean 'epochs'?)"),
        (
            "data: {dataset: digits, batch-size: 1}",
            "r.yaml:1: data.batch-size: unknown key (did you mean 'batch_size'?)",
        ),
        (
            "prune:\n  finetune:\n    distill:\n      temprature: 4",
            "r.yaml:4: prune.finetune.distill.temprature: unknown key (did you mean 'temperature'?)",
        ),
        ("prune: {bifurcate: {ci: 2}}", "r.yaml:1: prune.bifurcate.ci: unknown key (did you mean 'chi'?)"),
    ],
)
def test_a_typo_gets_the_nearest_key_at_each_level(text: str, message: str) -> None:
    assert complaint(text) == message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("train: {lr: 0.1}", "train.optimizer.lr"),
        ("lr: 0.1", "train.optimizer.lr"),
        ("prune: {finetune: {momentum: 0}}", "prune.finetune.optimizer.momentum"),
        ("ratio: 0.5", "prune.ratio"),
        ("train: {optimizer: {learning_rate: 1}}", "lr"),
        ("train: {learning_rate: 1}", "train.optimizer.lr"),
        ("prune: {bifurcate: {lambda: 1}}", "strength"),
    ],
)
def test_a_key_in_the_wrong_place_is_led_to_the_right_one(text: str, meant: str) -> None:
    assert f"unknown key (did you mean '{meant}'?)" in complaint(text)


def test_where_nothing_is_near_the_known_keys_are_listed() -> None:
    assert complaint("train: {schedule: {zzz: 1}}").endswith(
        "unknown key (known here: name, warmup, milestones, gamma, final)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: true", "seed: should be a whole number, not true"),
        ("seed: 1.5", "seed: should be a whole number, not 1.5"),
        ("train: {epochs: many}", "train.epochs: should be a number, not 'many'"),
        ("train: {epochs: '3'}", "train.epochs: should be a number, not '3' (take away the quotes)"),
        ("train: {steps: '3'}", "train.steps: should be a whole number, not '3' (take away the quotes)"),
        ("train: {epochs: .inf}", "train.epochs: should be a number, not '.inf'"),
        ("train: {optimizer: {nesterov: yes}}", "nesterov: should be true or false, not 'yes' (write true)"),
        ("train: {optimizer: {nesterov: off}}", "nesterov: should be true or false, not 'off' (write false)"),
        ("train: {optimizer: {nesterov: 1}}", "nesterov: should be true or false, not 1 (write true)"),
        ("train: {optimizer: adam}", "train.optimizer: should be a section of keys, not 'adam'"),
        ("train: {distill: false}", "should be a section of keys, not false (write null to switch it off)"),
        ("train: {distill: true}", "train.distill: should be a section of keys, not true"),
        (
            "train: {optimizer: {name: sdg}}",
            "name: should be 'sgd', 'adam' or 'adamw', not 'sdg' (did you mean 'sgd'?)",
        ),
        ("train: {mixed_precision: false}", "mixed_precision: should be 'no', 'fp16', 'bf16' or 'auto', not false"),
        ("train: {channels_last: maybe}", "channels_last: should be true or false or 'auto', not 'maybe'"),
        ("prune: {ratio: 0}", "prune.ratio: should be greater than 0, not 0"),
        ("prune: {ratio: 1}", "prune.ratio: should be less than 1, not 1"),
        ("prune: {ratio: -1}", "prune.ratio: should be greater than 0, not -1"),
        ("prune: {ratio: abc}", "prune.ratio: should be a number, not 'abc'"),
        ("seed: 4294967296", "seed: should be less than 4294967296, not 4294967296"),
        ("data: {dataset: digits, validation: 1.5}", "data.validation: should be less than 1, not 1.5"),
        ("data: {dataset: digits, workers: -1}", "data.workers: should be at least 0, not -1"),
        ("data: {dataset: ''}", "data.dataset: should not be empty"),
        ("bypass: {extensions: []}", "bypass.extensions: should not be empty"),
        (
            "bypass: {extensions: [wide]}",
            "bypass.extensions.0: should be 'diag', 'mirror', 'revive', 'widen', 'identity', 'restart' or 'shrink', "
            "not 'wide' (did you mean 'widen'?)",
        ),
        ("data: {dataset: 5}", "data.dataset: should be text, not 5 (put it in quotes)"),
        ("data: {root: x}", "data.dataset: is missing"),
        ("data: digits", "data: should be a section of keys, not 'digits'"),
        ("model: {input_shape: []}", "model.input_shape: should not be empty"),
        ("model: {input_shape: 3}", "model.input_shape: should be a list, not 3"),
        ("model: {input_shape: [3, x]}", "model.input_shape.1: should be a whole number, not 'x'"),
        ("model: {kwargs: 3}", "model.kwargs: should be a section of keys, not 3"),
        ("model: {arch: resnet18}", "model.arch: should look like zoo:digits_resnet or file.py:factory"),
        ("train: {optimizer: {betas: [0.9]}}", "train.optimizer.betas.1: the list is too short"),
        ("train: {optimizer: {betas: [0.9, 0.9, 0.9]}}", "betas: should have 2 entries, not 3"),
        ("train: {epochs: 1, steps: 1}", "train: give `epochs` or `steps`, not both"),
        ("[1, 2]", "r.yaml:1: should be a section of keys, not [1, 2]"),
        ("just words", "r.yaml:1: should be a section of keys, not 'just words'"),
        (f"task: {'x' * 200}", "not '" + "x" * 56 + "..."),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(text: str, message: str) -> None:
    found = complaint(text)
    assert message in found
    assert "\n" not in found
    assert "Input should" not in found


def test_a_word_that_only_python_reads_as_a_number_gets_no_hint() -> None:
    assert complaint("train: {epochs: nan}").endswith("should be a number, not 'nan'")


def test_all_problems_come_together_in_the_order_of_the_file() -> None:
    text = """\
tasks: classification
train:
  epochs: 2
  epochs: 3
  optimzer: {lr: 3e-4}
  mixed_precision: no
prune:
  ratio: 1
  score: {method: enery}
seed: yes
"""
    assert complaint(text).splitlines() == [
        "r.yaml:1: tasks: unknown key (did you mean 'task'?)",
        "r.yaml:4: train.epochs: given twice, first at line 3",
        "r.yaml:5: train.optimzer: unknown key (did you mean 'optimizer'?)",
        "r.yaml:8: prune.ratio: should be less than 1, not 1",
        "r.yaml:9: prune.score.method: should be 'energy', 'compensated', 'race', 'taylor', 'magnitude', 'random' or "
        "'group_lasso', not 'enery' (did you mean 'energy'?)",
        "r.yaml:10: seed: should be a whole number, not 'yes'",
    ]


def test_a_value_that_yaml_itself_spoils_is_told_once() -> None:
    assert complaint("train: {epochs: 1e999}") == "r.yaml:1: train.epochs: 1e999 is not a finite number"


@given(st.sampled_from([key for key, _ in fields()]), st.data())
def test_a_dropped_letter_leads_back_to_the_key(key: tuple[str, ...], data: st.DataObject) -> None:
    *above, name = key
    if len(name) < 5 or key == ("data", "dataset"):
        return
    i = data.draw(st.integers(1, len(name) - 2))
    typo = name[:i] + name[i + 1 :]
    values: Any = {typo: 1}
    for part in reversed(above):
        beside = {"dataset": "digits"} if part == "data" else {}
        values = [values] if part == 0 else {part: {**values, **beside} if beside else values}
    with pytest.raises(RecipeError, match=rf"{typo}: unknown key \(did you mean '{name}'\?\)"):
        check(Document("r", values))
