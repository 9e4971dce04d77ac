"""Everything that extcon refuses, each with its exit code. One clear line each: what was wrong, where, what to do."""

from __future__ import annotations


class ExtconError(Exception):
    """Base of all refusals. `exit_code` is what the command line returns: docs/guide/ci.md lists them."""

    exit_code = 1


class UsageError(ExtconError):
    """The command line or a call of the library asks for something that cannot be."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or an override is not valid; all its problems stand in one message, a line each."""


class CheckpointError(ExtconError):
    """A checkpoint cannot be read, is of another architecture, or cannot be written."""

    exit_code = 3


class DataError(ExtconError):
    """The data are not there or cannot be read."""

    exit_code = 3


class TraceError(ExtconError):
    """The model's forward pass cannot be traced, so that nothing can be said about its channels."""

    exit_code = 3


class GateError(ExtconError):
    """A check that guards the result failed: not exact, target missed, accuracy drop too large.

    Args:
        gate: the name of the check.
        result: what was measured until then, where all of it was.
    """

    exit_code = 4

    def __init__(self, message: str, *, gate: str = "check", result: object = None) -> None:
        super().__init__(message)
        self.gate, self.result = gate, result


class DivergedError(GateError):
    """The loss is not finite; training may be tried again with smaller steps."""


class Interrupted(ExtconError):
    """The user stopped the run; what was done is kept and can be resumed."""

    exit_code = 130


class ProcessLost(Interrupted):
    """Another of the processes that share the run has ended, so that this one cannot go on."""


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of what somebody else's exception says, cut off; its type where it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0][:most] if said else type(error).__name__


def typed_line(error: BaseException) -> str:
    """The same behind its type, where the type is half of the story."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__


def one_line(error: BaseException, most: int = 200) -> str:
    """All that an exception says, in one line, cut off; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
