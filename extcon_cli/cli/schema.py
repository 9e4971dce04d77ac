"""`extcon schema`: what the JSON documents of a command hold. Derived from the types of the results, hence no torch."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Annotated

import typer

from extcon_cli.cli import completion
from extcon_cli.errors import UsageError


def schema(
    command: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND",
            help="Such as prune, plan, bypass, train, evaluate, compare.",
            autocompletion=completion.documents,
        ),
    ],
) -> None:
    """Print the JSON Schema of a command's document: of its `--json`, and of its `--report FILE.json`.

    Example: `extcon schema prune`
    """
    from extcon_cli.report.results import COMMANDS
    from extcon_cli.report.serialise import json_schema

    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"{command!r} leaves no document; those that do are {', '.join(COMMANDS)}{hint}")
    print(json.dumps(json_schema(COMMANDS[command]), indent=2))
