"""What a sweep keeps in `OUT.run/`, so that Ctrl-C loses nothing: the scores, and the targets that are done.

What a target under way has kept lies in the run's folder of its own output.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extcon_cli.data.identity import identity
from extcon_cli.errors import CheckpointError, UsageError
from extcon_cli.json_text import parse_json
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.prune import PruneResult
from extcon_cli.report.serialise import from_json, to_json
from extcon_cli.training.run_lock import RunLock
from extcon_cli.training.whole import digest, remove_temporaries, write_whole

FILES = ("sweep.json", "scores.pt")


class SweepState:
    """The folder of one sweep.

    Args:
        folder: OUT.run; made where it is not there.
        checkpoint: that is pruned.
        recipe: of any of its targets: these do not count.
        resume: go on with what is there; else it is thrown away.

    Raises: UsageError where another process works on it, or it is of another sweep; CheckpointError: it is damaged.
    """

    def __init__(self, folder: Path, checkpoint: Path, recipe: Recipe, *, resume: bool) -> None:
        self._lock = RunLock(folder)
        self.folder = folder
        self._identity = _identity(checkpoint, recipe)
        self._done: dict[str, Any] = {}
        self.began_anew = not resume and (folder / "sweep.json").is_file()
        try:
            if resume:
                self._read()
            else:
                self._clear()
            self._write()
        except BaseException:
            self._lock.withdraw()
            raise

    @property
    def begun(self) -> bool:
        """Is there something to go on from?"""
        return bool(self._done) or (self.folder / "scores.pt").is_file()

    @property
    def scores(self) -> Tensor | None:
        """As they were kept: (n,). None: not yet."""
        path = self.folder / "scores.pt"
        if not path.is_file():
            return None
        try:
            found: Tensor = torch.load(path, weights_only=True)
        except Exception as error:  # whatever torch makes of a damaged file
            raise CheckpointError(f"{path}: is damaged; start anew without --resume") from error
        return found

    def keep_scores(self, scores: Tensor) -> None:
        """Keep them: (n,)."""
        write_whole(self.folder / "scores.pt", lambda file: torch.save(scores.cpu(), file))

    def done(self, asked: str, output: Path) -> PruneResult | None:
        """The result of a target whose output is there as it was written."""
        kept = self._done.get(asked)
        if kept is None or not output.exists() or kept["digest"] != digest(output):
            return None
        return from_json(PruneResult, kept["result"])

    def keep(self, asked: str, result: PruneResult, output: Path) -> None:
        """A target is done: its output is there."""
        self._done[asked] = {
            "output": str(output),
            "digest": digest(output),
            "result": to_json(replace(result, history=None)),
        }
        self._write()

    def finish(self) -> None:
        """The sweep is over: take away what it has put here."""
        self._clear()
        self._lock.remove()

    def _clear(self) -> None:
        for name in FILES:
            remove_temporaries(self.folder / name)
            (self.folder / name).unlink(missing_ok=True)

    def _read(self) -> None:
        path = self.folder / "sweep.json"
        if not path.is_file():
            return
        try:
            kept = parse_json(path.read_text(encoding="utf-8"))
            known, done = kept["identity"], dict(kept["done"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: is damaged; start anew without --resume") from error
        if known != self._identity:
            raise UsageError(
                f"{self.folder}: is of a sweep with another recipe, checkpoint or data; repeat that one, or start anew "
                "without --resume"
            )
        self._done = done

    def _write(self) -> None:
        text = json.dumps({"identity": self._identity, "done": self._done})
        try:
            write_whole(self.folder / "sweep.json", lambda file: file.write(text.encode()))
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written: {error.strerror or error}") from error


def _identity(checkpoint: Path, recipe: Recipe) -> str:
    prune = recipe.prune.model_copy(update={"ratio": None, "target": None})
    what = {
        "recipe": recipe.model_copy(update={"prune": prune}).model_dump(mode="json"),
        "checkpoint": digest(checkpoint),
        "data": identity(recipe.data) if recipe.data is not None else None,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
