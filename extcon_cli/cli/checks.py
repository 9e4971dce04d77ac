"""What can be wrong with the files that a command is to write, and with its data. It needs no torch: said at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from extcon_cli.errors import UsageError
from extcon_cli.json_text import parse_json
from extcon_cli.training.whole import sha256

if TYPE_CHECKING:
    from extcon_cli.recipe.load import Resolved


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
        told = parse_json((run / "output.json").read_text(encoding="utf-8"))["output"]
        return bool(told == sha256(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_accuracy(limit: float | None) -> None:
    """UsageError where --min-accuracy is no share."""
    if limit is not None and not 0 <= limit <= 1:
        raise UsageError(f"--min-accuracy {limit:g}: should lie between 0 and 1")


def check_latency(limit: str | None, *, measured: bool) -> None:
    """UsageError where --max-latency is neither a share nor a time, or nothing is to be measured."""
    if limit is None:
        return
    from extcon_cli.recipe.durations import seconds_of, share_of

    if share_of(limit) is None:
        seconds_of(limit)
    if not measured:
        raise UsageError("--max-latency needs what --no-latency leaves out")


def check_trackers(names: Sequence[str] | None) -> None:
    """UsageError where --log-with names no tracker, or one that is not installed."""
    from extcon_cli.training.trackers import check_trackers as check

    check(names or ())


def check_junit(path: Path | None) -> None:
    """UsageError where --junit could not be written."""
    if path is not None:
        check_folder(path, "--junit")


def check_reports(paths: Sequence[Path] | None, *, chart: bool = False) -> None:
    """UsageError where a report could not be written. `chart`: the result has one, which may be a .png."""
    endings = [".html", ".md", ".json", *([".png"] if chart else [])]
    for path in paths or ():
        if path.suffix not in endings:
            raise UsageError(f"{path}: a report ends in {', '.join(endings[:-1])} or {endings[-1]}")
        check_folder(path, "--report")


def check_folder(path: Path, option: str) -> None:
    """UsageError where the folder of a file to be written is missing or closed."""
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"{path}: the folder {folder} does not exist; make it or choose another {option}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{path} cannot be written: permission denied; choose another {option}")


def check_ultralytics(*, resume: bool, export: bool, several: bool) -> None:
    """UsageError: one of these is asked for a checkpoint of Ultralytics; with what to do instead."""
    asked = {
        "--resume": (resume, "Ultralytics' trainer begins anew; run it again with --force"),
        "--export": (export, "prune first, then run yolo export model=... format=... on the result"),
        "several targets": (several, "run it once for each target"),
    }
    for name, (given, instead) in asked.items():
        if given:
            raise UsageError(f"a checkpoint of Ultralytics does not take {name}: {instead}")
