"""`extcon recipe list|show|check|schema`: look at recipes without running anything, hence without torch."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(
    help="List, show and check recipes; print their schema.", no_args_is_help=True, rich_markup_mode="markdown"
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A bundled name such as prune/digits_resnet, or a file.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="A recipe file, or a bundled name.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key first. Repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the bundled recipes, each with what it is for.

    Example: `extcon recipe list`
    """
    from rich.console import Console
    from rich.table import Table

    from extcon_cli.recipe.bundled import bundled, summary

    recipes = {name: summary(path) for name, path in bundled().items()}
    console = Console()
    if as_json:
        print(json.dumps([{"name": name, "summary": text} for name, text in recipes.items()], indent=2))
    elif not console.is_terminal:
        print("\n".join(f"{name}\t{text}" for name, text in recipes.items()))
    else:
        table = Table("recipe", "what it is for", box=None, header_style="bold", padding=(0, 2, 0, 0))
        for name, text in recipes.items():
            table.add_row(f"[cyan]{name}[/cyan]", text)
        console.print(table)


@app.command()
def show(
    name: Name,
    resolved: Annotated[bool, typer.Option("--resolved", help="Fill in every default.")] = False,
    overrides: Set = None,
) -> None:
    """Print a recipe as it stands, or with every default filled in; a good start for your own.

    Example: `extcon recipe show prune/digits_resnet > mine.yaml`

    Example: `extcon recipe show prune/default --resolved --set prune.ratio=0.7`
    """
    from extcon_cli.recipe.load import dump, find, load, read_text

    path = find(name)
    text = dump(load(path, overrides or ())) if resolved or overrides else read_text(path)
    _print_yaml(text)


@app.command()
def check(file: File, overrides: Set = None) -> None:
    """Check a recipe: prints `valid`, or every problem with its line and the nearest known key (exit code 2).

    Example: `extcon recipe check mine.yaml`
    """
    from extcon_cli.recipe.load import find, load

    load(find(file), overrides or ())
    print("valid")


@app.command()
def schema(markdown: Annotated[bool, typer.Option("--markdown", help="The reference, as Markdown.")] = False) -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML.

    Example: `extcon recipe schema > recipe.schema.json`
    """
    from extcon_cli.recipe.reference import json_schema, reference

    print(reference() if markdown else json.dumps(json_schema(), indent=2))


def _print_yaml(text: str) -> None:
    """Print YAML: in colour on a terminal, byte for byte elsewhere."""
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console()
    if console.is_terminal and not console.no_color:
        console.print(Syntax("", "yaml", theme="ansi_dark").highlight(text), end="", soft_wrap=True)
    else:
        print(text, end="")
