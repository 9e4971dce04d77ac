"""docs/reference/python.md from what `extcon_cli` exports: signatures and docstrings. make_reference.py calls it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import extcon_cli


def python_page(made: str) -> str:
    """Every exported name with its signature and docstring; of classes their public methods and properties too."""
    lines = ["# Reference: Python", "", made, "```python", "import extcon_cli", "```", ""]
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
    if not is_dataclass(value):  # dataclasses are given, not made
        yield from signature(name, value)
    yield from docstring(value)
    if is_dataclass(value):
        said = meanings(value)
        for field in fields(value):
            yield f"- `{field.name}: {plain(field.type)}`" + (f": {said[field.name]}" if field.name in said else "")
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
    parameters = [shown(p) for p in found.parameters.values() if p.name not in ("self", "cls")]
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


def shown(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter with its annotation as it stands in the code."""
    if parameter.annotation is parameter.empty:
        return parameter
    return parameter.replace(annotation=Text(parameter.annotation))


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
            inner = textwrap.dedent(rest)
            yield from inner.splitlines() if heading.strip() == "Returns:" else listed(inner)
        elif block.startswith("    "):
            yield from ["```python", *textwrap.dedent(block).splitlines(), "```"]
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


def meanings(kind: type) -> dict[str, str]:
    """What stands under each field of a class as text, or behind it as a comment."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines, (node,) = source.splitlines(), ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for statement, below in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            found[statement.target.id] = " ".join(below.value.value.split())
        elif comment := re.search(r"#\s*(.*)$", lines[(statement.end_lineno or 1) - 1]):
            found[statement.target.id] = comment[1]
    return found
