"""The house: dependencies point down, and only the command line knows how to print."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import extcon_cli

ROOT = Path(extcon_cli.__file__).parent

ALLOWED = {
    "allocator": set(),
    "errors": set(),
    "memory": {"errors"},
    "processes": {"errors"},
    "events": set(),
    "json_text": set(),
    "channels": {"errors"},
    "averaging": {"channels"},
    "catalyst": {"channels", "errors"},
    "bypass": {"averaging", "channels", "catalyst", "errors"},
    "recipe": {"errors"},
    "checkpoint": {"allocator", "channels", "recipe", "errors", "events", "json_text", "memory"},
    "data": {"recipe", "errors", "events", "json_text", "memory", "processes"},
    "tasks": {"channels", "errors"},
    "export": {"channels", "errors"},
    "latency": {"channels", "export", "training", "errors", "json_text"},
    "training": {"averaging", "channels", "tasks", "recipe", "errors", "events", "json_text", "processes"},
    "report": {"channels", "recipe", "errors", "events"},
}
ALLOWED["integrations"] = {"channels", "catalyst", "bypass", "checkpoint", "errors"}
ALLOWED["pipelines"] = set(ALLOWED)
ALLOWED["cli"] = {*ALLOWED, "pipelines"}
"""What each part may import of extcon, beside itself."""

MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0]
    used = {name.split(".")[1] for name in imports(path) if name.startswith("extcon_cli.")}
    assert used <= {part} | ALLOWED[part]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_rooms_of_channels_are_entered_by_its_door(path: Path) -> None:
    """Other parts import from `extcon_cli.channels`; in it the analysis knows nothing of removal."""
    room = path.relative_to(ROOT).parts[:2]
    inner = {tuple(name.split(".")[1:3]) for name in imports(path) if name.startswith("extcon_cli.channels.")}
    if room[0] != "channels":
        assert not inner & {("channels", "analysis"), ("channels", "removal")}
    elif room[1] == "analysis":
        assert ("channels", "removal") not in inner


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_command_line_draws(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] != "cli":
        tree = ast.parse(path.read_text())
        assert not {name.split(".")[0] for name in imports(path)} & {"typer", "rich"}
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]


@pytest.mark.parametrize(
    "module",
    ["extcon_cli", "extcon_cli.cli.app", "extcon_cli.recipe.load", "extcon_cli.events", "extcon_cli.report.results"],
)
def test_imports_without_torch(module: str) -> None:
    heavy = "{'torch', 'torchvision', 'accelerate', 'matplotlib', 'numpy'}"
    program = f"import sys, {module}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_help_loads_no_recipe() -> None:
    """`extcon --help` is instant: the recipe's schema, and pydantic with it, is loaded when a command runs."""
    program = "import sys, extcon_cli.cli.app; sys.exit(bool({'pydantic', 'yaml', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
