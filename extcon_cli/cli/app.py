"""`extcon`: mounts the commands and translates errors into one line and an exit code. Imports no torch."""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import sys
import warnings
from typing import Annotated

import typer

from extcon_cli import __version__
from extcon_cli.cli import (
    bypass,
    compare,
    evaluate,
    export,
    init,
    inspect,
    plan,
    prune,
    recipe,
    schema,
    streams,
    train,
    verify,
)
from extcon_cli.errors import ExtconError, ProcessLost, UsageError, one_line
from extcon_cli.processes import launched, leave, speaks

app = typer.Typer(
    name="extcon",
    help="Makes a trained PyTorch model better: prunes filters without changing an output.",
    epilog="Start here: `extcon prune model.pt --ratio 0.5`. Each command has examples: `extcon prune --help`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.init)
app.command("plan")(plan.plan)
app.command("prune")(prune.prune)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("bypass")(bypass.bypass)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("export")(export.export)
app.command("compare")(compare.compare)
app.command("schema")(schema.schema)
app.add_typer(recipe.app, name="recipe")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"extcon {__version__}")
        raise typer.Exit


SHARED = ("train", "prune", "bypass")
"""What several processes can do together."""


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The options of `extcon` itself."""
    if launched().number > 1 and context.invoked_subcommand not in SHARED:
        raise UsageError(
            f"{context.invoked_subcommand} is for one process: start it without torchrun or accelerate launch"
        )


def main() -> None:
    """The console script: exit codes as in docs/guide/ci.md; EXTCON_DEBUG=1 shows tracebacks and warnings."""
    streams.prepare()
    if launched().place:  # of several processes the first one prints
        streams.to_nowhere(1)
    debugging = bool(os.environ.get("EXTCON_DEBUG"))
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _prepare(debugging)
        code = app(standalone_mode=False)
        if code == 130:  # the parser makes this of Ctrl-C
            raise KeyboardInterrupt
    except BaseException as error:
        if debugging and not isinstance(error, SystemExit):
            raise
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it ends already: let it say why
        code = _translate(error)
    code = _flush() or code or 0
    if launched().number > 1:
        leave(code)
    sys.exit(code)


def _prepare(debugging: bool) -> None:
    """Set what is the process's own, before torch is imported."""
    # looking for garbage among all that torch imports takes a fifth of a short command
    gc.set_threshold(50_000, 10, 10)
    _sleep_while_waiting()
    if not debugging:
        warnings.simplefilter("ignore")  # of the libraries; extcon says what users should know through events
        logging.getLogger("torch").setLevel(logging.ERROR)
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def _sleep_while_waiting() -> None:
    """OpenMP's threads sleep while they wait for each other, so that beside other processes a core is free for these.

    OpenMP reads its variables when torch is imported. docs/results/cost.md has what it costs and gains.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _translate(error: BaseException) -> int | str | None:
    """One line on stderr for an exception; its exit code."""
    name = type(error).__name__
    if isinstance(error, BrokenPipeError) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)  # by rich
    ):
        streams.to_nowhere(1)
        return 0
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, ExtconError):
        return _fail(str(error), error.exit_code, late=isinstance(error, ProcessLost))
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _fail("interrupted", 130)
    if name == "NoArgsIsHelpError":  # help was shown in the place of a command
        return 2
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the parser's own usage errors
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context is not None else ""
        return _fail(" ".join(error.format_message().split()) + hint, 2)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return _fail("out of memory: lower data.batch_size and data.eval_batch_size, or choose another --device", 2)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        streams.to_nowhere(1)  # else it is tried once more at the end
        return _fail(f"cannot write: {error.strerror}: {error.filename or 'stdout'}", 2)
    what = f"a defect of extcon, not of your input: {name}: {one_line(error, 300)}"
    return _fail(f"{what} (EXTCON_DEBUG=1 shows where; please report it)", 1)


def _fail(message: str, code: int, *, late: bool = False) -> int:
    """Say it. Of several processes one does; `late`: the others may know better why."""
    place, number = launched()
    if number == 1 or speaks(late=late):
        print(f"extcon: error: {f'process {place + 1} of {number}: ' if place else ''}{message}", file=sys.stderr)
    return code


def _flush() -> int:
    """The exit code where what was printed cannot be written, else 0. A reader that went away is no error of ours."""
    try:
        sys.stdout.flush()
    except OSError as error:
        streams.to_nowhere(1)
        return 0 if isinstance(error, BrokenPipeError) else _fail(f"cannot write: {error.strerror}: stdout", 2)
    return 0
