"""Write a result document as a report: HTML with figures, Markdown, or JSON. Whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extcon_cli.errors import UsageError
from extcon_cli.report.markdown import markdown

__all__ = ["finite", "summary", "write"]

summary = markdown
"""The Markdown report is also what a CI job shows."""


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write the report that the suffix asks for, over what was there.

    Raises:
        UsageError: another suffix, or the file cannot be written.
    """
    if path.suffix == ".html":
        from extcon_cli.report.html import html

        text = html(document)
    elif path.suffix == ".md":
        text = markdown(document)
    elif path.suffix == ".json":
        text = json.dumps(finite(document), indent=2, allow_nan=False)
    else:
        raise UsageError(f"{path}: a report ends in .html, .md or .json")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --report") from error
    finally:
        temporary.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """The same document with null for NaN and infinities, which are no JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
