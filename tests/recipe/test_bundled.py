"""The recipes that come with extcon are valid, say what they are for, and the reference is current."""

from __future__ import annotations

import re

import pytest

from extcon_cli.recipe.bundled import bundled, summary
from extcon_cli.recipe.load import load, resolve
from extcon_cli.recipe.reference import json_schema, reference
from extcon_cli.recipe.schema import DataSpec, Recipe
from extcon_cli.recipe.tree import dotted, fields


@pytest.mark.parametrize("name", bundled())
class TestEach:
    def test_is_valid_and_found_by_its_name(self, name: str) -> None:
        recipe = resolve("prune", recipe=name).recipe
        assert name == "prune/default" or recipe.data is not None

    def test_says_what_it_is_for(self, name: str) -> None:
        assert re.fullmatch(r"[A-Z].{20,110}\.", summary(bundled()[name]))

    def test_shows_its_command(self, name: str) -> None:
        method = name.partition("/")[0]
        commands = re.findall(r"^#   (extcon .*)", bundled()[name].read_text(), re.MULTILINE)
        assert len(commands) == 1
        assert commands[0].startswith(f"extcon {method} ")
        assert name.endswith("default") or f"--recipe {name}" in commands[0]

    def test_runs_everywhere(self, name: str) -> None:
        recipe = load(bundled()[name])
        assert recipe.data is None or (recipe.data.root is None and not recipe.data.download)


def test_the_recipes_of_the_checkout_are_there() -> None:
    assert set(bundled()) >= {
        "prune/default",
        "prune/digits_resnet",
        "prune/cifar_resnet20",
        "prune/cifar_resnet56",
        "prune/cifar100_vgg19",
        "prune/imagenet_resnet50",
        "prune/imagenet_deit_tiny",
        "bypass/eggholder",
        "bypass/cifar10-2c2d",
        "bypass/cifar10-resnet18",
        "train/digits_resnet",
        "train/cifar_resnet20",
    }


def test_the_default_recipe_says_what_the_schema_says() -> None:
    assert load(bundled()["prune/default"]) == Recipe()


def test_the_reference_names_every_key_with_its_meaning() -> None:
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", reference(), re.MULTILINE | re.DOTALL))
    for key, field in fields():
        *above, name = (part for part in key if part != 0)
        where = sections[dotted(tuple(above))] if above else reference()
        row = next(line for line in where.splitlines() if line.startswith("|") and f"`{name}`" in line.split(" | ")[0])
        assert field.description is not None
        assert " ".join(field.description.split()).replace("|", "\\|") in row


def test_the_links_of_the_reference_lead_somewhere() -> None:
    headings = {heading.replace(".", "") for heading in re.findall(r"^## (\S+)", reference(), re.MULTILINE)}
    links = re.findall(r"\(#([^)]*)\)", reference())
    assert links
    assert set(links) == headings


def test_the_json_schema_describes_what_is_required_and_known() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["$defs"]["DataSpec"]["required"] == ["dataset"]
    assert set(schema["$defs"]["DataSpec"]["properties"]) == set(DataSpec.model_fields)
