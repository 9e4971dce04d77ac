"""The pages of docs/reference that come from the code: `python docs/make_reference.py` writes them anew.

recipe.md from the recipe's schema, cli.md from the commands and their options, json.md from the types of the results,
python.md from the signatures and docstrings of what `extcon_cli` exports; and the worked example in architecture.md.
What a page says stands in the code, and tests/test_docs.py fails where one is out of date. checkpoint.md is written by
hand.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import worked_example
from json_reference import json_page
from python_reference import python_page
from typer.main import get_command

from extcon_cli.cli.app import app
from extcon_cli.recipe.reference import reference

DOCS = Path(__file__).parent
BEGIN, END = "<!-- made by docs/worked_example.py -->\n", "<!-- end -->\n"
MADE = "Made by `python docs/make_reference.py` from the code; edit it there.\n"


def main() -> None:
    """Write every page."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """File name under docs/ -> Markdown."""
    return {
        "reference/recipe.md": reference() + "\n",
        "reference/cli.md": cli_page(),
        "reference/json.md": json_page(MADE),
        "reference/python.md": python_page(MADE),
        "architecture.md": architecture_page(),
    }


def architecture_page() -> str:
    """The page with the worked example as extcon gives it now, and with the code it shows as it stands now."""
    before, _, rest = (DOCS / "architecture.md").read_text(encoding="utf-8").partition(BEGIN)
    page = f"{before}{BEGIN}\n{worked_example.text()}\n{END}{rest.partition(END)[2]}"
    return re.sub(
        r"(```python\n# (\S+): (\w+)\n).*?```", lambda m: f"{m[1]}{code(m[2], m[3])}\n```", page, flags=re.DOTALL
    )


def code(file: str, name: str) -> str:
    """The function, class or assignment of this name in a file of the repository."""
    text = (DOCS.parent / file).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        names = [getattr(node, "name", None), *(getattr(target, "id", None) for target in getattr(node, "targets", ()))]
        if name in names and isinstance(node, ast.stmt):
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
            return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
    raise LookupError(f"{file} has no {name}")


def cli_page() -> str:
    """Every command with its arguments, options and examples."""
    root: Any = get_command(app)
    lines = ["# Reference: commands", "", MADE, f"{root.help}", ""]
    for path, command in commands(root, ("extcon",)):
        lines += [f"## {' '.join(path)}", "", *command_lines(path, command)]
    return "\n".join(lines).rstrip() + "\n"


def commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command under a group, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


def command_lines(path: tuple[str, ...], command: Any) -> Iterator[str]:
    """Usage, what it does, examples, and a table of its options."""
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    options = [param for param in shown if param.param_type_name == "option" and param.name != "help"]
    names = [called(argument) for argument in arguments]
    yield f"    {' '.join([*path, *names, '[OPTIONS]'])}"
    yield ""
    yield from inspect.cleandoc(command.help or "").splitlines()
    yield ""
    if arguments or options:
        yield "| argument or option | value | default | meaning |"
        yield "|---|---|---|---|"
    for argument in arguments:
        yield f"| `{argument.metavar}` | | {'required' if argument.required else ''} | {cell(argument.help or '')} |"
    for option in options:
        flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
        value = f"`{cell(option.metavar)}`" if option.metavar else ""
        default = "" if option.default in (None, False, ()) else f"`{option.default}`"
        yield f"| {flags} | {value} | {default} | {cell(option.help or '')} |"
    yield ""


def called(argument: Any) -> str:
    """An argument as a usage line shows it."""
    name = f"{argument.metavar}..." if argument.nargs == -1 else f"{argument.metavar}"
    return name if argument.required else f"[{name}]"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
