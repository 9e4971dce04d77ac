"""The schema by itself: what a recipe may say, and what stands where it says nothing."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.load import from_dict
from extcon_cli.recipe.schema import (
    BifurcateSpec,
    DataSpec,
    FinetuneSpec,
    OptimizerSpec,
    PruneSpec,
    Recipe,
    TrainSpec,
)
from extcon_cli.recipe.tree import fields


def test_every_key_has_a_meaning() -> None:
    assert [key for key, field in fields() if not field.description] == []


def test_a_recipe_is_a_frozen_value() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().seed = 1  # type: ignore[misc]


def test_prune_begins_with_the_defaults_that_were_measured() -> None:
    """docs/results/selection.md compares them."""
    prune = PruneSpec()
    assert (prune.ratio, prune.score.method, prune.decide.floor) == (0.5, "compensated", 0.1)
    assert (prune.bifurcate.method, prune.bifurcate.chi, prune.bifurcate.shrink) == ("none", 1.25, 0.5)
    assert (prune.compensate.enabled, prune.compensate.hand_over) == (True, "sequential")
    assert (prune.bifurcate.optimizer.lr, prune.bifurcate.clip_grad) == (0.01, 1.0)
    assert prune.finetune.distill is not None
    assert prune.finetune.distill.temperature == 8.0


def test_finetune_is_a_shorter_and_gentler_train() -> None:
    train, finetune = TrainSpec(), FinetuneSpec()
    assert isinstance(finetune, TrainSpec)
    assert finetune.epochs < train.epochs  # type: ignore[operator]
    assert finetune.optimizer.lr < train.optimizer.lr
    assert finetune.schedule.warmup > 0
    assert train.distill is None


def test_a_part_of_finetune_leaves_the_other_defaults_of_finetune() -> None:
    finetune = PruneSpec.model_validate({"finetune": {"optimizer": {"weight_decay": 1e-4}}}).finetune
    assert (finetune.optimizer.lr, finetune.schedule.warmup) == (0.01, 20)


@pytest.mark.parametrize("section", [TrainSpec, FinetuneSpec, BifurcateSpec])
class TestOneLength:
    def test_the_default_is_in_epochs(self, section: type[TrainSpec]) -> None:
        assert section().epochs is not None
        assert section().steps is None

    def test_steps_replace_the_default(self, section: type[TrainSpec]) -> None:
        given = section.model_validate({"steps": 7})
        assert (given.epochs, given.steps) == (None, 7)

    def test_fractions_of_an_epoch_are_lengths(self, section: type[TrainSpec]) -> None:
        assert section.model_validate({"epochs": 0.4}).epochs == 0.4

    @pytest.mark.parametrize(("given", "found"), [({"epochs": 1, "steps": 1}, "both"), ({"epochs": None}, "neither")])
    def test_both_or_none_is_an_error(self, section: type[TrainSpec], given: dict[str, int], found: str) -> None:
        with pytest.raises(ValidationError, match=f"give `epochs` or `steps`, not {found}"):
            section.model_validate(given)

    @pytest.mark.parametrize("given", [{"epochs": 0}, {"epochs": -1}, {"steps": -1}, {"steps": 1.5}])
    def test_a_length_is_positive(self, section: type[TrainSpec], given: dict[str, float]) -> None:
        with pytest.raises(ValidationError):
            section.model_validate(given)

    def test_only_a_fine_tuning_may_be_left_out(self, section: type[TrainSpec]) -> None:
        if section is FinetuneSpec:
            assert (section.model_validate({"steps": 0}).steps, section.model_validate({"steps": 0}).epochs) == (
                0,
                None,
            )
        else:
            with pytest.raises(ValidationError):
                section.model_validate({"steps": 0})


@pytest.mark.parametrize(("name", "rate"), [("sgd", 0.1), ("adam", 0.001), ("adamw", 0.001)])
def test_the_default_rate_fits_the_optimizer(name: str, rate: float) -> None:
    assert OptimizerSpec.model_validate({"name": name}).lr == rate
    assert OptimizerSpec.model_validate({"name": name, "lr": 0.3}).lr == 0.3


@pytest.mark.parametrize("ratio", [0, 1, -1, 1.5, True, "0.5", None, float("nan")])
def test_the_ratio_lies_strictly_between_0_and_1(ratio: object) -> None:
    with pytest.raises(ValidationError):
        PruneSpec.model_validate({"ratio": ratio})


@pytest.mark.parametrize(
    "values",
    [
        {"seed": True},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 1.0},
        {"task": "clustering"},
        {"model": {"arch": "resnet18"}},
        {"model": {"arch": ":fn"}},
        {"model": {"input_shape": []}},
        {"model": {"input_shape": [3, 0]}},
        {"model": {"input_shape": [3, True]}},
        {"model": {"input_shape": "3"}},
        {"model": {"kwargs": {"a": float("inf")}}},
        {"model": {"kwargs": {"a": object()}}},
        {"data": {}},
        {"data": {"dataset": ""}},
        {"data": {"dataset": "digits", "validation": 1}},
        {"data": {"dataset": "digits", "batch_size": 0}},
        {"data": {"dataset": "digits", "augment": {"flip": 1}}},
        {"data": {"dataset": "digits", "normalize": {"mean": [0.5]}}},
        {"data": {"dataset": "digits", "normalize": {"mean": [0.5], "std": [0.5, 0.5]}}},
        {"data": {"dataset": "digits", "normalize": {"mean": [0.5], "std": [0]}}},
        {"train": {"optimizer": {"lr": 0}}},
        {"train": {"optimizer": {"lr": 10**400}}},
        {"train": {"optimizer": {"momentum": 1}}},
        {"train": {"optimizer": {"nesterov": True, "momentum": 0}}},
        {"train": {"optimizer": {"betas": [0.9]}}},
        {"train": {"optimizer": {"betas": [0.9, 1.0]}}},
        {"train": {"schedule": {"milestones": [0.7, 0.5]}}},
        {"train": {"schedule": {"milestones": [0.5, 0.5]}}},
        {"train": {"schedule": {"warmup": -1}}},
        {"train": {"clip_grad": 0}},
        {"train": {"mixed_precision": False}},
        {"train": {"distill": {"weight": 1.1}}},
        {"prune": {"bifurcate": {"chi": 1}}},
        {"prune": {"bifurcate": {"shrink": 0}}},
        {"prune": {"decide": {"floor": 1}}},
        {"prune": {"decide": {"keep": "layer1"}}},
    ],
)
def test_values_out_of_their_bounds_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(values)


def test_lists_become_tuples_and_whole_numbers_floats() -> None:
    recipe = Recipe.model_validate({"model": {"input_shape": [1, 8, 8]}, "train": {"epochs": 3}})
    assert recipe.model.input_shape == (1, 8, 8)
    assert isinstance(recipe.train.epochs, float)
    assert DataSpec(dataset="digits").root is None


@pytest.mark.parametrize(
    "target", [{"macs": 0.5}, {"params": 0.1}, {"size": "10MB"}, {"size": "1.5 GiB"}, {"size": 0.5}]
)
def test_a_target_replaces_the_ratio(target: dict[str, object]) -> None:
    spec = from_dict({"prune": {"target": target}}).prune
    assert spec.ratio is None
    assert spec.target is not None
    assert spec.target.model_dump(exclude_none=True) == target


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"target": {"macs": 0.5, "params": 0.5}}, "exactly one of"),
        ({"target": {}}, "exactly one of"),
        ({"target": {"macs": 1.5}}, "less than 1"),
        ({"target": {"size": "10 megabytes"}}, "bytes such as 10MB"),
        ({"target": {"size": 10}}, "bytes such as 10MB"),
        ({"target": {"size": 2.5}}, "a share between 0 and 1"),
        ({"target": {"macs": 0.5}, "ratio": 0.5}, "not both"),
        ({"ratio": None}, "not neither"),
        ({"decide": {"layers": [{"ratio": 0.3}]}}, r"layers\.0\.match: is missing"),
        ({"decide": {"layers": [{"match": "a", "ratoi": 0.3}]}}, "did you mean 'ratio'"),
    ],
)
def test_a_target_that_cannot_be_is_refused(section: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        from_dict({"prune": section})
