"""The result of `extcon export`: the file, what it takes, how far it is from the checkpoint, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from extcon_cli.report.results.records import Metrics, OutputDifference, Result
from extcon_cli.report.serialise import OPTIONAL


@dataclass(frozen=True)
class FileInput:
    """One input of an exported file."""

    name: str
    shape: tuple[str, ...]
    """Sizes, and the names of those that are free: batch, height, width, sequence."""
    dtype: str


@dataclass(frozen=True)
class RunnableFile:
    """A checkpoint or an exported file, as it runs here on the CPU."""

    path: str
    runtime: str
    bytes: int
    """On disk."""
    latency: Mapping[str, float]
    """Seconds of a run by batch size; empty: it does not run by itself."""
    metrics: Metrics
    """On test samples; empty: there are no data."""


@dataclass(frozen=True, kw_only=True)
class ExportResult(Result):
    """The result of `extcon export`."""

    command: Literal["export"] = "export"
    checkpoint: str
    output: str
    format: str
    inputs: tuple[FileInput, ...]
    normalize: Mapping[str, object] | None
    """How inputs, scaled to 0..1, are to be normalised before they are given; None: it is not known."""
    max_diff: float
    differences: Mapping[str, OutputDifference | None]
    """The file in its own runtime against the checkpoint, on random inputs, and on real ones (None: no data)."""
    threads: int
    samples: int
    """Test samples that metrics and real inputs come from; 0: no data."""
    before: RunnableFile
    after: RunnableFile
    quantized: RunnableFile | None = field(default=None, metadata=OPTIONAL)
    """With --quantize."""
