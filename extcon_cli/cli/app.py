"""`extcon`: mounts the commands and translates errors into one line and an exit code. Imports no torch."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from extcon_cli import __version__
from extcon_cli.cli import evaluate, inspect, prune, recipe, train
from extcon_cli.errors import ExtconError

app = typer.Typer(
    name="extcon",
    help="Makes a trained PyTorch model better: prunes filters without changing an output.",
    epilog="Start here: `extcon prune model.pt --ratio 0.5`. Each command has examples: `extcon prune --help`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("prune")(prune.prune)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("inspect")(inspect.inspect)
app.add_typer(recipe.app, name="recipe")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"extcon {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The options of `extcon` itself."""


def main() -> None:
    """The console script: exit codes as in DESIGN.md, section 5; EXTCON_DEBUG=1 shows tracebacks and warnings."""
    debugging = bool(os.environ.get("EXTCON_DEBUG"))
    if not debugging:
        warnings.simplefilter("ignore")  # of the libraries; extcon says what users should know through events
        logging.getLogger("torch").setLevel(logging.ERROR)
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        code = app(standalone_mode=False)
    except BaseException as error:
        if debugging and not isinstance(error, SystemExit):
            raise
        code = _translate(error)
    _flush()
    sys.exit(code or 0)


def _translate(error: BaseException) -> int | str | None:
    """One line on stderr for an exception; its exit code."""
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, ExtconError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _fail("interrupted", 130)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the parser's own usage errors
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context is not None else ""
        return _fail(" ".join(error.format_message().split()) + hint, 2)
    text = " ".join(str(error).split())[:300]
    return _fail(
        f"a defect of extcon, not of your input: {type(error).__name__}: {text} "
        "(EXTCON_DEBUG=1 shows where; please report it)",
        1,
    )


def _fail(message: str, code: int) -> int:
    print(f"extcon: error: {message}", file=sys.stderr)
    return code


def _flush() -> None:
    """A reader that went away is no error of ours."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
