"""The options that commands share, and the checks that need no torch: what is wrong is said at once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from extcon_cli.checkpoint.folder import checkpoint_file as find_checkpoint
from extcon_cli.checkpoint.folder import has_tokenizer, image_of, is_transformers, task_of
from extcon_cli.checkpoint.trust import Trust
from extcon_cli.errors import UsageError
from extcon_cli.events import Emit
from extcon_cli.training.whole import sha256

if TYPE_CHECKING:
    from extcon_cli.data.kinds import Kind
    from extcon_cli.recipe.load import Resolved
    from extcon_cli.recipe.schema import Recipe

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
    typer.Option("--recipe", metavar="FILE|NAME", help="A recipe file, or a bundled name.", rich_help_panel=RECIPE),
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
    float | None,
    typer.Option(
        "--ratio", metavar="SHARE", parser=number, help="Share of the prunable filters to remove: 0.5 for half."
    ),
]
MacsOption = Annotated[
    float | None,
    typer.Option("--macs", metavar="SHARE", parser=number, help="Share of the MACs that may be left: 0.5 for half."),
]
ParamsOption = Annotated[
    float | None,
    typer.Option("--params", metavar="SHARE", parser=number, help="Share of the parameters that may be left."),
]
SizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="SIZE", help="Bytes of the tensors that may be left: 10MB, 512KiB, or a share."),
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


def set_memory(size: str | None) -> None:
    """Let checkpoints ask for so much memory (None: as the environment says, or what is free)."""
    if size is None:
        return
    from extcon_cli.memory import VARIABLE, parse_bytes

    try:
        os.environ[VARIABLE] = str(parse_bytes(size))
    except ValueError as error:
        raise UsageError(f"--max-memory: {error}") from None


def find_recipe(
    method: str,
    recipe: str | None,
    checkpoint: Path | None,
    overrides: Sequence[str] | None,
    data: Kind | None = None,  # goes before the recipe's own data, after --set
    **given: Any,  # keys that options of their own set: seed=3, prune__ratio=0.5
) -> Resolved:
    """The recipe of a run, from where `recipe.load.resolve` looks for it, with --set and the other options put in."""
    from extcon_cli.checkpoint.header import read_header
    from extcon_cli.recipe.load import resolve

    metadata = read_header(checkpoint) if checkpoint is not None else None
    put = [f"{key.replace('__', '.')}={value}" for key, value in given.items() if value is not None]
    return resolve(
        method,
        recipe=recipe,
        checkpoint=checkpoint,
        embedded=metadata.recipe if metadata is not None and metadata.recipe else None,
        overrides=[*_told(method, recipe, checkpoint, data), *_data_keys(data), *(overrides or ()), *put],
    )


def aim(
    ratio: float | None = None, macs: float | None = None, params: float | None = None, size: str | None = None
) -> dict[str, object]:
    """How much is to go, as keys for `find_recipe`. UsageError where it is said twice, or is no share."""
    given = {"ratio": ratio, "macs": macs, "params": params, "size": size}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(
            f"--{named[0]} and --{named[1]} are two targets: give one of --ratio, --macs, --params, --size"
        )
    whats = {"ratio": "of the filters", "macs": "of the MACs", "params": "of the parameters"}
    for name, what in whats.items():
        value = given[name]
        if isinstance(value, float) and not 0 < value < 1:
            raise UsageError(f"--{name} {value:g}: should lie between 0 and 1, such as 0.5 for half {what}")
    if ratio is not None:
        return {"prune__ratio": ratio}
    return {"prune__target": json.dumps({name: _scalar(given[name]) for name in named})} if named else {}


def _scalar(value: object) -> object:
    """A share given as text as a number; other text as it is."""
    try:
        return float(str(value))
    except ValueError:
        return value


def bundled_recipe(method: str, overrides: Sequence[str] | None, data: Kind | None) -> Resolved:
    """The recipe of a method where the user has none yet."""
    from extcon_cli.recipe.load import resolve

    return resolve(method, overrides=[*_data_keys(data), *(overrides or ())])


def data_kind(path: str | None) -> Kind | None:
    """What --data holds. DataError where that is nothing that can be read."""
    if path is None:
        return None
    from extcon_cli.data.kinds import kind as kind_of_data

    return kind_of_data(path)


def is_set(key: str, overrides: Sequence[str] | None) -> bool:
    """Did the user give this key by --set?"""
    return any(text.partition("=")[0].strip() == key for text in overrides or ())


def _told(method: str, recipe: str | None, checkpoint: Path | None, data: Kind | None) -> list[str]:
    """What a folder of Hugging Face says of its task and its tokenizer, where the user gave no recipe."""
    if checkpoint is None or not is_transformers(checkpoint) or recipe or checkpoint.with_suffix(".yaml").is_file():
        return []
    task = task_of(checkpoint) or (data and data.task)
    keys = [f"task={task}"] if task else []
    if data is not None and data.dataset in ("text", "saved") and has_tokenizer(checkpoint):
        keys.append(f"data.tokenizer={json.dumps(str(checkpoint))}")
    if data is not None and (image := image_of(checkpoint)) is not None:
        from extcon_cli.data.kinds import PICTURES

        keys.append(f"model.input_shape={list(image.shape)}")
        if data.dataset in PICTURES and image.mean and image.std:
            keys.append(f"data.normalize={json.dumps({'mean': image.mean, 'std': image.std})}")
    if method == "prune":  # what transformers are trained with
        for phase in ("bifurcate", "finetune"):
            keys += [f"prune.{phase}.optimizer.name=adamw", f"prune.{phase}.optimizer.lr=1e-4"]
    return keys


def _data_keys(data: Kind | None) -> list[str]:
    if data is None:
        return []
    return [f"data.{key}={json.dumps(value)}" for key, value in (("dataset", data.dataset), ("root", data.root))]


def trust(code: bool, pickle: bool, *recipes: Resolved) -> Trust:
    """What the options and the origin of the recipes allow: code named by a recipe that the user gave may run."""
    return Trust(code, pickle, recipe=all(found.source == "argument" for found in recipes))


def checkpoint_file(path: Path) -> Path:
    """The checkpoint, also of a folder that holds one; a folder of Hugging Face as it is.

    CheckpointError where it is missing, cut off, or no checkpoint, as far as its first bytes tell.
    """
    if is_transformers(path):
        return path
    from extcon_cli.checkpoint.contents import kind

    file = find_checkpoint(path)
    kind(file)
    return file


def complete(
    resolved: Resolved,
    checkpoint: Path,
    data: Kind | None,
    overrides: Sequence[str] | None,
    trusted: Trust,
    emit: Emit,
) -> Recipe:
    """The recipe of a run that needs data. Where the user gave no recipe, what checkpoint and data tell is put in.

    RecipeError where something is missing: all of it, with the recipe to paste.
    """
    if resolved.source != "bundled" or (data is None and resolved.recipe.data is not None):
        return resolved.recipe
    if is_transformers(checkpoint) and resolved.recipe.data is not None:
        return resolved.recipe
    from extcon_cli.pipelines.first_look import complete as filled  # takes seconds: torch

    given = is_set("task", overrides)
    return filled(checkpoint, resolved.recipe, data, task_given=given, trust=trusted, emit=emit)


def check_data(resolved: Resolved, checkpoint: Path) -> None:
    """UsageError where the user's recipe does not say which data to work with."""
    if resolved.source != "bundled":
        require_data(resolved, checkpoint)


def require_data(resolved: Resolved, checkpoint: Path) -> None:
    """UsageError where nothing says which data to work with."""
    if resolved.recipe.data is None:
        raise UsageError(
            f"no data to work on {checkpoint.name} with: put a recipe {checkpoint.stem}.yaml with a `data` section "
            "beside it, give --recipe or --data, or set data.dataset and data.root with --set"
        )


def check_output(path: Path, *, force: bool, resume: bool, suffixes: Sequence[str]) -> bool:
    """UsageError where the output could not be written; whether it may be overwritten.

    A resumed run may overwrite the output that it wrote itself before it was killed, not one that came later.
    """
    if path.suffix not in suffixes:
        raise UsageError(f"{path}: give --out a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; choose another --out")
    own = resume and _written_by(Path(f"{path}.run"), path)
    if path.exists() and not (force or own):
        if resume and Path(f"{path}.run", "state.pt").is_file():
            raise UsageError(f"{path} is not what the run wrote: overwrite it with --force or choose another --out")
        raise UsageError(f"{path} exists already; overwrite it with --force or choose another --out")
    check_folder(path, "--out")
    return force or own


def _written_by(run: Path, path: Path) -> bool:
    """Is the file the one that the run in this folder wrote?"""
    try:
        told = json.loads((run / "output.json").read_text(encoding="utf-8"))["sha256"]
        return bool(told == sha256(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_accuracy(limit: float | None) -> None:
    """UsageError where --min-accuracy is no share."""
    if limit is not None and not 0 <= limit <= 1:
        raise UsageError(f"--min-accuracy {limit:g}: should lie between 0 and 1")


def check_junit(path: Path | None) -> None:
    """UsageError where --junit could not be written."""
    if path is not None:
        check_folder(path, "--junit")


def check_reports(paths: Sequence[Path] | None) -> None:
    """UsageError where a report could not be written."""
    for path in paths or ():
        if path.suffix not in (".html", ".md", ".json"):
            raise UsageError(f"{path}: a report ends in .html, .md or .json")
        check_folder(path, "--report")


def check_folder(path: Path, option: str) -> None:
    """UsageError where the folder of a file to be written is missing or closed."""
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"{path}: the folder {folder} does not exist; make it or choose another {option}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{path} cannot be written: permission denied; choose another {option}")
