"""The options that commands share, and how their values are read. What they mean for a run is for resolve.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from extcon_cli.cli import completion
from extcon_cli.errors import UsageError

RECIPE, RUN, OUTPUT, TRUST = "Recipe", "Run", "Output", "Trust"
MOST_THREADS = 1024
FLAG = ""
"""What help shows as the value of an option that takes none."""


def number(text: str) -> float:
    """Parse an option's value; the refusal says what was given."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def whole(text: str) -> int:
    """Parse an option's value; the refusal says what was given."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CKPT",
        help="A checkpoint: .safetensors, .pt, .pth, .bin, .ckpt, or a folder with one, or of Hugging Face.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="FILE|NAME",
        help="A recipe file, or a bundled name.",
        rich_help_panel=RECIPE,
        autocompletion=completion.recipes,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key of the recipe. Repeatable.", rich_help_panel=RECIPE
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="PATH", help="The data: a folder, .npz, .csv, or a bundled name.", rich_help_panel=RECIPE
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", parser=whole, help="Seed of all random numbers.", rich_help_panel=RECIPE),
]
RatioOption = Annotated[
    str | None,
    typer.Option("--ratio", metavar="SHARE", help="Share of the prunable filters to remove: 0.5 for half."),
]
MacsOption = Annotated[
    str | None,
    typer.Option("--macs", metavar="SHARE", help="Share of the MACs that may be left: 0.5 for half."),
]
ParamsOption = Annotated[
    str | None,
    typer.Option("--params", metavar="SHARE", help="Share of the parameters that may be left."),
]
SizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="SIZE", help="Bytes of the tensors that may be left: 10MB, 512KiB, or a share."),
]
LatencyOption = Annotated[
    str | None,
    typer.Option(
        "--latency", metavar="TIME", help="Time of a batch that may be left: 4ms, or a share such as 0.5 (--runtime)."
    ),
]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="What latency is measured in: torch, torch.compile, onnxruntime, openvino. Default: torch.",
        rich_help_panel=RUN,
        autocompletion=completion.runtimes,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", parser=whole, help="Samples of a batch whose latency counts.", rich_help_panel=RUN
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1, mps. Default: the best there is.", rich_help_panel=RUN
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        parser=whole,
        help="CPU threads, like OMP_NUM_THREADS. Default: what suits the model and is fastest here.",
        rich_help_panel=RUN,
    ),
]
DeterministicOption = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        metavar=FLAG,
        help="Only algorithms that give the same bits in every run; slower on GPUs.",
        rich_help_panel=RUN,
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Memory that a checkpoint or data may ask for: 4GB, 512MiB. Default: 0.8 of what is free.",
        rich_help_panel=TRUST,
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", metavar=FLAG, help="Go on with the interrupted run in OUT.run/.", rich_help_panel=RUN),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar=FLAG,
        help="Try everything on a few batches, say what would be done, and write nothing.",
        rich_help_panel=RUN,
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Where the result goes.", rich_help_panel=OUTPUT)
]
ForceOption = Annotated[
    bool, typer.Option("--force", metavar=FLAG, help="Overwrite the output.", rich_help_panel=OUTPUT)
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", metavar=FLAG, help="Print one JSON document on stdout, nothing else.", rich_help_panel=OUTPUT
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", metavar=FLAG, help="No progress; one line of the result.", rich_help_panel=OUTPUT),
]
JunitOption = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", help="Write the gates as JUnit XML.", rich_help_panel=OUTPUT),
]
KeepRunOption = Annotated[
    bool,
    typer.Option("--keep-run", metavar=FLAG, help="Leave OUT.run/ there after success.", rich_help_panel=RUN),
]
LogWithOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log-with",
        metavar="NAME",
        help="Also log figures to tensorboard, wandb or trackio. Repeatable.",
        rich_help_panel=OUTPUT,
        autocompletion=completion.trackers,
    ),
]
MinAccuracyOption = Annotated[
    float | None,
    typer.Option(
        "--min-accuracy", metavar="SHARE", parser=number, help="Fail (exit 4) where the accuracy is less: 0.9."
    ),
]
ReportOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--report", metavar="FILE", help="Write a report: .html, .md or .json. Repeatable.", rich_help_panel=OUTPUT
    ),
]
TrustCodeOption = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        metavar=FLAG,
        help="Run the Python code that the checkpoint or its sidecar names.",
        rich_help_panel=TRUST,
    ),
]
TrustPickleOption = Annotated[
    bool,
    typer.Option(
        "--trust-pickle", metavar=FLAG, help="Load a pickled module; it can run any code.", rich_help_panel=TRUST
    ),
]


def set_threads(number: int | None) -> None:
    """Compute with so many CPU threads (None: as the environment says). Before torch is imported, which reads it."""
    if number is None:
        return
    if not 1 <= number <= MOST_THREADS:
        raise UsageError(f"--threads {number}: should lie between 1 and {MOST_THREADS}")
    os.environ["OMP_NUM_THREADS"] = str(number)


def set_deterministic(asked: bool) -> None:
    """Compute by algorithms that repeat their bits. Before torch begins on a GPU, whose library reads a variable."""
    if asked:
        os.environ["EXTCON_DETERMINISTIC"] = "1"
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def set_memory(size: str | None) -> None:
    """Let checkpoints ask for so much memory (None: as the environment says, or what is free)."""
    if size is None:
        return
    from extcon_cli.memory import VARIABLE, parse_bytes

    try:
        os.environ[VARIABLE] = str(parse_bytes(size))
    except ValueError as error:
        raise UsageError(f"--max-memory: {error}") from None
