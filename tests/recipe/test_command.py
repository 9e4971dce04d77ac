"""`extcon recipe list|show|check|schema`. Errors are raised here; main makes exit codes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from extcon_cli.cli.recipe import app
from extcon_cli.errors import RecipeError
from extcon_cli.recipe.bundled import bundled
from extcon_cli.recipe.load import load


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_list_names_each_recipe_with_what_it_is_for() -> None:
    lines = dict(line.split("\t") for line in run("list").splitlines())
    assert list(lines) == list(bundled())
    assert lines["prune/digits_resnet"].startswith("Halves the digits ResNet")


def test_list_as_json() -> None:
    assert [entry["name"] for entry in json.loads(run("list", "--json"))] == list(bundled())


@pytest.mark.parametrize("name", bundled())
def test_show_gives_the_file_itself(name: str) -> None:
    assert run("show", name) == bundled()[name].read_text(encoding="utf-8")


def test_show_resolved_is_a_recipe_that_says_all(tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(run("show", "prune/digits_resnet", "--resolved", "--set", "prune.ratio=0.3"), encoding="utf-8")
    assert load(copy) == load(bundled()["prune/digits_resnet"], ["prune.ratio=0.3"])
    assert "  ratio: 0.3\n" in copy.read_text()


@pytest.mark.parametrize("name", bundled())
def test_check_says_valid(name: str) -> None:
    assert run("check", name) == "valid\n"
    assert run("check", str(bundled()[name])) == "valid\n"


def test_check_raises_all_problems(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  optimzer: {}\nseed: x\n")
    with pytest.raises(RecipeError) as caught:
        run("check", str(file))
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines() == [
        f"{file}:2: train.optimzer: unknown key (did you mean 'optimizer'?)",
        f"{file}:3: seed: should be a whole number, not 'x'",
    ]


@pytest.mark.parametrize("command", ["show", "check"])
def test_an_unknown_name_leads_to_the_nearest(command: str) -> None:
    with pytest.raises(RecipeError, match="did you mean 'prune/digits_resnet'"):
        run(command, "prune/digit_resnet")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is a folder"), (b"\xff\xfe", "not UTF-8"), (b"", "is empty"), (b"- 1", "section")]
)
def test_check_refuses_what_is_no_recipe(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "thing"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        run("check", str(path))


def test_schema_is_json_schema() -> None:
    assert json.loads(run("schema"))["properties"]["prune"]


def test_schema_as_markdown_is_the_reference() -> None:
    assert run("schema", "--markdown").startswith("# Reference: recipe")


@pytest.mark.parametrize("command", ["list", "show", "check", "schema"])
def test_help_has_an_example(command: str) -> None:
    assert f"extcon recipe {command}" in run(command, "--help")
