"""`OUT.run/`: the recipe, the events and a resumable state of one run. It knows nothing of what the state means.

Files: recipe.yaml (for people), events.jsonl, state.pt (written whole or not at all, loaded with weights_only),
threads.json (with how many threads the run began).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
import yaml

from extcon_cli.errors import CheckpointError, UsageError
from extcon_cli.events import Event
from extcon_cli.recipe.schema import Recipe
from extcon_cli.training.threads import Threads

FILES = ("recipe.yaml", "events.jsonl", "state.pt", "threads.json")

SAVE_EVERY = 3.0
"""Seconds between two periodic saves, or 100 times what a save takes where that is longer."""


class ResumeState(NamedTuple):
    """What a run has kept: the phase that it was in, and what that phase needs to go on."""

    phase: str
    payload: dict[str, Any]


class RunDirectory:
    """The folder of one run.

    Args:
        path: OUT.run.
        recipe: what the run does.
        inputs: what else decides the result, such as {"command": "train", "checkpoint": sha256}.
    """

    def __init__(self, path: Path, recipe: Recipe, inputs: Mapping[str, str | None]) -> None:
        self.path = path
        self._recipe = recipe
        identity = {"recipe": recipe.model_dump(mode="json"), "inputs": dict(inputs)}
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._inputs = dict(inputs)
        self._saved_at, self._save_took = time.monotonic(), 0.0
        self.threads: Threads | None = None
        """Of the run; None until `begin_threads`."""
        self.kept_threads: int | None = None
        """The number of them where a run that goes on stopped; None: there is none, or it is not known."""

    def begin(self, *, resume: bool) -> ResumeState | None:
        """Prepare the folder; the kept (phase, payload) where `resume` finds one, else start anew.

        UsageError where the kept run is one of another recipe or another input.
        """
        if resume:
            self.kept_threads = self._threads_at_begin()
        kept = self.load() if resume else None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in FILES if kept is None else ():
                (self.path / name).unlink(missing_ok=True)
            text = yaml.safe_dump(self._recipe.model_dump(mode="json"), sort_keys=False)
            write_whole(self.path / "recipe.yaml", lambda file: file.write(text.encode()))
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        return kept

    def begin_threads(self, threads: Threads) -> None:
        """Compute with these from now on, and keep their number for a run that goes on."""
        self.threads = threads
        threads.apply()
        text = json.dumps({"identity": self.identity, "threads": threads.number})
        write_whole(self.path / "threads.json", lambda file: file.write(text.encode()))

    def save(self, phase: str, payload: Mapping[str, Any]) -> None:
        """Keep the state of this moment, atomically; payload: tensors, numbers, text, in dicts, lists, tuples."""
        began = time.monotonic()
        state = {
            "identity": self.identity,
            "inputs": self._inputs,
            "phase": phase,
            "payload": dict(payload),
            "threads": torch.get_num_threads(),
        }
        write_whole(self.path / "state.pt", lambda file: torch.save(state, file))
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - began

    def due(self) -> bool:
        """Is it time for a periodic save?"""
        return time.monotonic() - self._saved_at >= max(SAVE_EVERY, 100 * self._save_took)

    def load(self) -> ResumeState | None:
        """The kept (phase, payload) on the CPU, None where there is none (UsageError: of another run)."""
        path = self.path / "state.pt"
        if not path.is_file():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            identity, inputs, phase, payload = (state[k] for k in ("identity", "inputs", "phase", "payload"))
            self.kept_threads = int(state["threads"])
        except Exception as error:  # whatever torch makes of a foreign or broken file
            raise CheckpointError(f"{path}: cannot be read; start anew without --resume") from error
        if identity != self.identity:
            changed = [k for k in {**inputs, **self._inputs} if inputs.get(k) != self._inputs.get(k)]
            what = f"another {changed[0]}" if changed else "another recipe"
            raise UsageError(f"{self.path}: is of a run with {what}; repeat that one, or start anew without --resume")
        return ResumeState(phase, payload)

    def _threads_at_begin(self) -> int | None:
        """With how many threads this same run began; they count until it has kept a state."""
        try:
            kept = json.loads((self.path / "threads.json").read_text())
            return int(kept["threads"]) if kept["identity"] == self.identity else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def log(self, event: Event) -> None:
        """Append an event as one JSON line."""
        line = json.dumps({"event": type(event).__name__, **asdict(event)}, default=str)
        path = self.path / "events.jsonl"
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a kill left half a line
                    file.write(b"\n")
            file.write(line.encode() + b"\n")


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name, sync and rename it: a reader sees the old one or the new one, whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
