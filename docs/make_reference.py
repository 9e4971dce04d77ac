"""The pages of docs/reference that come from the code: `python docs/make_reference.py` writes them anew.

recipe.md from the recipe's schema, cli.md from the commands and their options, python.md from the signatures and
docstrings of what `extcon_cli` exports; and the worked example in architecture.md. Nothing is explained here: what a
page says stands in the code, and tests/test_docs.py fails where one is out of date. checkpoint.md is written by hand.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import worked_example
from typer.main import get_command

import extcon_cli
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
        "reference/python.md": python_page(),
        "architecture.md": architecture_page(),
    }


def architecture_page() -> str:
    """The page with the worked example as extcon gives it now."""
    before, _, rest = (DOCS / "architecture.md").read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{worked_example.text()}\n{END}{rest.partition(END)[2]}"


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


def python_page() -> str:
    """Every exported name with its signature and docstring; of classes their public methods and properties too."""
    lines = ["# Reference: Python", "", MADE, "```python", "import extcon_cli", "```", ""]
    for name in extcon_cli.__all__:
        value = getattr(extcon_cli, name)
        if inspect.isclass(value):
            lines += [f"## {name}", "", *class_lines(name, value)]
        elif callable(value):
            lines += [f"## {name}", "", *signature(name, value), *docstring(value)]
        else:
            lines += [f"## {name}", "", f"`{type(value).__name__}`", ""]
    return "\n".join(lines).rstrip() + "\n"


def class_lines(name: str, value: type) -> Iterator[str]:
    """A class: how it is made, what it is, its fields, methods and properties."""
    own = vars(value)
    if not issubclass(value, BaseException) and not inspect.isabstract(value):
        yield from signature(name, value)
    yield from docstring(value)
    if is_dataclass(value):
        shown = [field for field in fields(value) if not field.name.startswith("_")]
        yield from (f"- `{field.name}: {plain(field.type)}`" for field in shown)
        yield ""
    for attribute, member in own.items():
        if attribute.startswith("_"):
            continue
        inner = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if isinstance(inner, property):
            yield f"### {name}.{attribute}"
            yield ""
            kind = inspect.signature(inner.fget).return_annotation if inner.fget else ""
            yield f"Property: `{plain(kind)}`."
            yield ""
            yield from docstring(inner)
        elif inspect.isfunction(inner):
            yield f"### {name}.{attribute}"
            yield ""
            yield from signature(f"{name}.{attribute}", inner)
            yield from docstring(inner)


def signature(name: str, value: Callable[..., Any]) -> Iterator[str]:
    """The call as Python, one parameter a line where it is long."""
    found = inspect.signature(value)
    parameters = [p.replace(annotation=Text(p.annotation)) for p in found.parameters.values() if p.name != "self"]
    returns = "" if found.return_annotation is inspect.Signature.empty else f" -> {plain(found.return_annotation)}"
    returns = "" if inspect.isclass(value) else returns
    call = str(inspect.Signature(parameters))
    if len(f"{name}{call}{returns}") > 100:
        call = "(\n" + "".join(f"    {part},\n" for part in parts(parameters)) + ")"
    yield from ["```python", f"{name}{call}{returns}", "```", ""]


def parts(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """Each parameter as text; `*` before the first that goes by name only."""
    star = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            yield "*"
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        yield str(parameter)


class Text:
    """An annotation that shows as it was written."""

    def __init__(self, annotation: Any) -> None:
        self.text = plain(annotation)

    def __repr__(self) -> str:
        return self.text


def plain(annotation: Any) -> str:
    """An annotation as it stands in the code."""
    if isinstance(annotation, str):
        return annotation
    return getattr(annotation, "__name__", None) or str(annotation)


def docstring(value: Any) -> Iterator[str]:
    """A docstring as Markdown: `Args:` and the like become lists, indented code stays code."""
    text = inspect.cleandoc(value.__doc__ or "")
    for block in re.split(r"\n\n+", text):
        heading, _, rest = block.partition("\n")
        if heading.strip() in ("Args:", "Raises:", "Returns:", "Attributes:", "Yields:") and rest.startswith("    "):
            yield f"**{heading.strip()[:-1]}**"
            yield ""
            yield from listed(inspect.cleandoc(rest))
        elif block.startswith("    "):
            yield from ["```python", *inspect.cleandoc(block).splitlines(), "```"]
        else:
            yield from block.splitlines()
        yield ""


def listed(text: str) -> Iterator[str]:
    """Lines `name: meaning`, continued by indented ones, as a list."""
    for line in text.splitlines():
        name, colon, meaning = line.partition(":")
        if line.startswith(" "):
            yield f"  {line.strip()}"
        elif colon:
            yield f"- `{name}`:{meaning}"
        else:
            yield f"- {line}"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
