"""Where a gate fails (exit code 4) the document and the reports are written all the same: what failed, by how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from extcon_cli.cli.results import deliver
from extcon_cli.errors import GateError
from extcon_cli.report.results import CommandResult, Refused
from extcon_cli.report.results.records import Gate


@contextmanager
def gated(
    command: str,
    checkpoint: Path | None,
    *,
    as_json: bool,
    reports: Sequence[Path] | None,
    quiet: bool = False,
    junit: Path | None = None,
) -> Iterator[None]:
    """Deliver what a GateError from within carries, or that there is nothing more, and let it go on."""
    try:
        yield
    except GateError as error:
        if error.result is not None:
            result = cast(CommandResult, error.result)
        else:
            failed = (Gate(error.gate, False, None, None, str(error)),)
            result = Refused(command=command, checkpoint=str(checkpoint or ""), message=str(error), gates=failed)
        if as_json or reports or junit or not isinstance(result, Refused):
            deliver(result, as_json=as_json, reports=reports, quiet=quiet, junit=junit)
        raise
