"""`OUT.run/`: the recipe, the events and a resumable state of one run. It knows nothing of what the state means.

Files: recipe.yaml (for people), events.jsonl, state.pt (a line with the SHA-256 of what follows, then what torch.save
wrote; whole or not at all, loaded with weights_only), threads.json (with how many threads the run began), speed.json
(how it computes its steps), output.json (the SHA-256 of the output that the run wrote).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
import yaml

from extcon_cli.errors import CheckpointError, UsageError
from extcon_cli.events import Event
from extcon_cli.json_text import parse_json
from extcon_cli.recipe.schema import Recipe
from extcon_cli.training.speed import Speed
from extcon_cli.training.threads import Threads
from extcon_cli.training.whole import remove_temporaries, sha256, write_whole

FILES = ("recipe.yaml", "events.jsonl", "state.pt", "threads.json", "speed.json", "output.json")
HEADER = b"extcon state 1, SHA-256 of what follows: %b\n"

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
        writes: this process keeps the state; else others do, and saving does nothing.
    """

    def __init__(self, path: Path, recipe: Recipe, inputs: Mapping[str, str | None], *, writes: bool = True) -> None:
        self.path, self._writes = path, writes
        self._recipe = recipe
        identity = {"recipe": recipe.model_dump(mode="json"), "inputs": dict(inputs)}
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._inputs = dict(inputs)
        self._saved_at, self._save_took = time.monotonic(), 0.0
        self.threads: Threads | None = None
        """Of the run; None until `begin_threads`."""
        self.kept_threads: int | None = None
        """The number of them where a run that goes on stopped; None: there is none, or it is not known."""
        self.kept_speed: Speed | None = None
        """How a run that goes on computes its steps; None: it is not known."""

    def begin(self, *, resume: bool) -> ResumeState | None:
        """Prepare the folder; the kept (phase, payload) where `resume` finds one, else start anew.

        UsageError where the kept run is one of another recipe or another input; CheckpointError where it is damaged.
        """
        if resume:
            threads, speed = self._kept("threads"), self._kept("speed")
            self.kept_threads = threads if isinstance(threads, int) else None
            self.kept_speed = _speed(speed)
        kept = self.load() if resume else None
        own = resume and self._kept("output") is not None  # an output that is there may be overwritten
        if kept is None and resume and not own and (self.path / "output.json").is_file():
            raise UsageError(f"{self.path}: is of another run; repeat that one, or start anew without --resume")
        stays = {"output.json"} if own else set[str]()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                remove_temporaries(self.path / name)
                if kept is None and name not in stays:
                    (self.path / name).unlink(missing_ok=True)
            text = yaml.safe_dump(self._recipe.model_dump(mode="json"), sort_keys=False)
            write_whole(self.path / "recipe.yaml", lambda file: file.write(text.encode()))
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        return kept

    @property
    def resumable(self) -> bool:
        """Is there a state to go on from, whatever run it is of?"""
        return (self.path / "state.pt").is_file()

    def clear(self) -> None:
        """Take away what this run has put here."""
        for name in FILES:
            remove_temporaries(self.path / name)
            (self.path / name).unlink(missing_ok=True)

    def begin_threads(self, threads: Threads) -> None:
        """Compute with these from now on, and keep their number for a run that goes on."""
        self.threads = threads
        threads.apply()
        self._keep("threads", threads.number)

    def begin_speed(self, speed: Speed) -> None:
        """Keep for a run that goes on how steps are computed."""
        self._keep("speed", asdict(speed))

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
        self._write("state.pt", lambda file: _save(state, file))
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - began

    def announce_output(self, sha256: str) -> None:
        """The output gets its name now: a run that goes on may overwrite this one, and no other."""
        self._keep("output", sha256)

    def due(self) -> bool:
        """Is it time for a periodic save?"""
        return self._writes and time.monotonic() - self._saved_at >= max(SAVE_EVERY, 100 * self._save_took)

    def load(self) -> ResumeState | None:
        """The kept (phase, payload) on the CPU, None where there is none (UsageError: of another run)."""
        path = self.path / "state.pt"
        if not path.is_file():
            return None
        try:
            state = _load(path)
            identity, inputs, phase, payload = (state[k] for k in ("identity", "inputs", "phase", "payload"))
            self.kept_threads = int(state["threads"])
        except Exception as error:  # whatever torch makes of a foreign or broken file
            raise CheckpointError(
                f"{path}: is damaged, or not as it was written; start anew without --resume"
            ) from error
        if identity != self.identity:
            changed = [k for k in {**inputs, **self._inputs} if inputs.get(k) != self._inputs.get(k)]
            what = "other data" if changed[:1] == ["data"] else f"another {changed[0] if changed else 'recipe'}"
            raise UsageError(f"{self.path}: is of a run with {what}; repeat that one, or start anew without --resume")
        return ResumeState(phase, payload)

    def _keep(self, name: str, value: object) -> None:
        text = json.dumps({"identity": self.identity, name: value})
        self._write(f"{name}.json", lambda file: file.write(text.encode()))

    def _kept(self, name: str) -> Any:
        """What this same run kept by `_keep`, such as its number of threads. None: nothing, or another run did."""
        try:
            kept = parse_json((self.path / f"{name}.json").read_text())
            return kept[name] if kept["identity"] == self.identity else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def log(self, event: Event) -> None:
        """Append an event as one JSON line."""
        line = json.dumps({"event": type(event).__name__, **asdict(event)}, default=str)
        path = self.path / "events.jsonl"
        with self._writing(path), open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a kill left half a line
                    file.write(b"\n")
            file.write(line.encode() + b"\n")

    def _write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        if not self._writes:
            return
        with self._writing(self.path / name):
            write_whole(self.path / name, write)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """UsageError, with what to do, where a file of the run cannot be written."""
        try:
            yield
        except OSError as error:
            if not self.path.is_dir():
                raise UsageError(f"{self.path}: the run's folder is gone; start anew without --resume") from error
            raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error


def _speed(kept: Any) -> Speed | None:
    """What `asdict` made of it. None: it is damaged, or another version's."""
    try:
        found = Speed(**kept)
    except TypeError:
        return None
    switches = isinstance(found.channels_last, bool) and isinstance(found.compile, bool)
    return found if switches and found.precision in ("no", "fp16", "bf16") else None


class _Hashed:
    """A file that is being written in order, and the SHA-256 of it so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _save(state: Mapping[str, Any], file: BinaryIO) -> None:
    """The state behind a line with its checksum."""
    file.write(HEADER % (b"0" * 64))
    hashed = _Hashed(file)
    torch.save(state, cast(BinaryIO, hashed))
    file.seek(0)
    file.write(HEADER % hashed.digest.hexdigest().encode())


def _load(path: Path) -> Mapping[str, Any]:
    """What `_save` wrote. ValueError where it is not as it was written; else whatever torch makes of it."""
    with path.open("rb") as file:
        header = file.readline(len(HEADER) + 64)
        if header != HEADER % sha256(path, file.tell()).encode():
            raise ValueError("the checksum is not that of the content")
        return torch.load(file, map_location="cpu", weights_only=True)
