"""Write a result as a report: HTML with figures, Markdown, JSON, or its chart as PNG. Whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

from extcon_cli.errors import UsageError
from extcon_cli.report.markdown import markdown
from extcon_cli.report.results import CommandResult
from extcon_cli.report.results.compare import CompareResult
from extcon_cli.report.results.prune import SweepResult
from extcon_cli.report.serialise import to_json

__all__ = ["summary", "write"]

summary = markdown
"""The Markdown report is also what a CI job shows."""


def write(result: CommandResult, path: Path) -> None:
    """Write the report that the suffix asks for, over what was there.

    Raises:
        UsageError: another suffix, or the file cannot be written.
    """
    content: str | bytes
    if path.suffix == ".html":
        from extcon_cli.report.html import html

        content = html(result) + "\n"
    elif path.suffix == ".md":
        content = markdown(result) + "\n"
    elif path.suffix == ".json":
        content = json.dumps(to_json(result), indent=2, allow_nan=False) + "\n"
    elif path.suffix == ".png" and isinstance(result, CompareResult | SweepResult):
        from extcon_cli.report.charts import picture

        content = picture(result)
    else:
        raise UsageError(f"{path}: a report ends in .html, .md or .json")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --report") from error
    finally:
        temporary.unlink(missing_ok=True)
