"""The documentation: pages made from the code are current, links resolve, no page names a file that is not there."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.main import get_command

from extcon_cli.cli.app import app
from extcon_cli.recipe.bundled import bundled
from extcon_cli.recipe.load import load

ROOT = Path(__file__).parents[1]
SKIPPED = {".git", ".venv", "build", "dist", "site", "shared", "node_modules"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if not SKIPPED & set(path.relative_to(ROOT).parts))
SOURCES = sorted(
    path
    for folder in ("extcon_cli", "tests", "benchmarks", "docs", "examples", "recipes", "sample_models")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".yaml", ".yml", ".md", ".j2") and path != Path(__file__)
)
FOLDERS = ("extcon_cli", "tests", "benchmarks", "docs", "examples", "recipes", "sample_models")
ROOMS = ("bypass", "catalyst", "channels", "checkpoint", "cli", "data", "pipelines", "recipe", "report", "training")


@pytest.fixture
def make_reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("make_reference")


def test_what_is_made_from_the_code_is_current(make_reference: ModuleType) -> None:
    """Remake it with `python docs/make_reference.py`."""
    for name, text in make_reference.pages().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, f"run docs/make_reference.py: {name}"


def test_a_page_that_is_not_current_is_noticed(make_reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_reference.pages()["reference/python.md"]
    monkeypatch.setattr("extcon_cli.load", lambda path: None, raising=False)
    assert make_reference.pages()["reference/python.md"] != before


def prose(path: Path) -> str:
    """A page without its code blocks."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def links(path: Path) -> Iterator[str]:
    """Targets of links and pictures that stay in the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(path: Path) -> set[str]:
    """What `#...` may name: the headings, as GitHub and mkdocs spell them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{page.name} links to {target}"
        if found.suffix == ".md" and anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}"
        if page.is_relative_to(ROOT / "docs"):
            assert found.is_relative_to(ROOT / "docs"), f"{target} lies outside the site"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """`extcon_cli/errors.py` is looked for from the root, `channels/analysis/trace.py` from the package."""
    for name in re.findall(r"`([\w./-]+/[\w./-]*)`", page.read_text(encoding="utf-8")):
        first = name.split("/")[0]
        if name.endswith((".pruned.safetensors", ".bypassed.safetensors")):
            continue  # what a command will have written
        if first in FOLDERS:
            assert (ROOT / name).exists(), f"{page.name} names {name}"
        elif first in ROOMS and Path(name).suffix == ".py":
            assert (ROOT / "extcon_cli" / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("name", ["DESIGN.md", "EVIDENCE.md", "STYLE.md", "../shared"])
def test_no_file_refers_to_what_is_not_in_the_repository(name: str) -> None:
    assert [str(path.relative_to(ROOT)) for path in SOURCES if name in path.read_text(encoding="utf-8")] == []


def written(pattern: str, *, flags: int = 0) -> list[tuple[str, str]]:
    """Page and match, of every page that people read."""
    return [
        (str(page.relative_to(ROOT)), found)
        for page in PAGES
        for found in re.findall(pattern, page.read_text(encoding="utf-8").replace(" \\\n", " "), flags)
    ]


@pytest.mark.parametrize(("page", "override"), written(r"--set ('[^']+'|[\w.]+=[^\s`]+)"))
def test_an_override_is_one_that_recipes_take(page: str, override: str) -> None:
    base = ["data.dataset=digits", "data.normalize={mean: [0.1], std: [0.2]}"]
    load(bundled()["prune/default"], [*base, override.strip("'")])


@pytest.mark.parametrize(("page", "text"), written(r"^```yaml\n(.*?)^```", flags=re.MULTILINE | re.DOTALL))
def test_a_recipe_is_valid(page: str, text: str, tmp_path: Path) -> None:
    values = yaml.safe_load(text)
    if "jobs" not in values:  # that is a workflow
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(text, encoding="utf-8")
        load(recipe)


@pytest.mark.parametrize(("page", "line"), written(r"extcon ((?:recipe )?[a-z]+ [^\n`|#]*--[^\n`|#]*)"))
def test_options_are_those_of_their_command(page: str, line: str) -> None:
    command: Any = get_command(app)
    words = line.split()
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {flag for param in command.params for flag in param.opts}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_every_page_is_in_the_site() -> None:
    class Loader(yaml.SafeLoader):
        """Reads mkdocs.yml, whose tags name Python objects."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)

    def named(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for inner in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            yield from named(inner)

    docs = ROOT / "docs"
    assert set(named(site["nav"])) == {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}


def test_pictures_are_small_enough_to_load() -> None:
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.stat().st_size < 300_000, picture.name


def test_the_citation_is_yaml_with_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == "Apache-2.0"
    assert [reference["year"] for reference in citation["references"]] == [2024, 2025]
