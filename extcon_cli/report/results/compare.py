"""The result of `extcon compare`: what each file costs and is worth, measured here. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from extcon_cli.report.results.records import Metrics, Result


@dataclass(frozen=True)
class ComparedFile:
    """A checkpoint, a folder or an exported file."""

    path: str
    kind: str
    """`checkpoint`, `folder`, or the format of an exported file."""
    runtime: str
    """What ran it, with its version."""
    params: int | None
    """Of an exported file: numbers that it holds, into which norms may be folded. None: nobody can tell."""
    macs: int | None
    """Multiply-accumulates of one sample. None: nobody can tell."""
    bytes: int
    """On disk."""
    latency: Mapping[str, float]
    """Seconds of a run on the CPU by batch size; empty: not measured."""
    metrics: Metrics
    """On the test samples; empty: there are no data."""


@dataclass(frozen=True, kw_only=True)
class CompareResult(Result):
    """The result of `extcon compare`."""

    command: Literal["compare"] = "compare"
    files: tuple[ComparedFile, ...]
    """In the order in which they were given."""
    samples: int
    """Test samples that metrics come from; 0: no data."""
    threads: int
    """Of the CPU, on which all of it was measured."""
    test_caution: str | None = None
    """Why the test figures say less than they seem to. None: nothing speaks against them."""
