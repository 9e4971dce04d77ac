"""A table of measured layer times, kept in the user's cache folder for this device, runtime and number of threads.

What cannot be read there is measured again, and two processes that write at once lose at most what one of them has
measured. Times are the shortest of several: what other processes take is no layer's.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

from extcon_cli.channels.layers import LayerShape
from extcon_cli.json_text import parse_json
from extcon_cli.latency.alone import alone, frame
from extcon_cli.latency.clock import take_turns
from extcon_cli.latency.runtimes import Setting
from extcon_cli.training.whole import write_whole

FOLDER = "EXTCON_CACHE"
"""The environment variable that names another folder."""
SECONDS = 0.03
"""How long each layer is measured, about."""
LEAST_SHARE = 0.1
"""Of a layer in its frame: what is left of it at the least when the frame is taken off."""
FORMAT = 1


@dataclass
class Table:
    """Seconds of linear maps by themselves.

    Args:
        setting: where they run; its batch size says nothing here, since the sizes of a layer hold it.
        folder: where the table is kept. None: nowhere.
        until: by time.monotonic(), after which nothing more is measured; what is missing is estimated.
    """

    setting: Setting
    folder: Path | None = None
    until: float = math.inf
    seconds: dict[LayerShape, float] = field(default_factory=dict)
    estimated: int = 0
    """How many times were asked for when it was too late to measure."""

    @classmethod
    def of(cls, setting: Setting, *, until: float = math.inf) -> Table:
        """The table that was kept, or an empty one."""
        folder = cache_folder()
        found = cls(setting, folder, until)
        found.seconds.update(_read(found.path) if found.path is not None else {})
        return found

    @property
    def path(self) -> Path | None:
        """The file that it is kept in."""
        if self.folder is None:
            return None
        same = json.dumps([self.setting.hardware, self.setting.software, self.setting.threads, self.setting.device])
        return self.folder / f"layers-{hashlib.sha256(same.encode()).hexdigest()[:16]}.json"

    def measure(self, shapes: Sequence[LayerShape]) -> list[float]:
        """Seconds of maps of one kind at several widths; those that are not known yet are measured in turns."""
        missing = [shape for shape in dict.fromkeys(shapes) if shape not in self.seconds]
        if missing and time.monotonic() < self.until:
            self.seconds.update(zip(missing, _measured(missing, self.setting), strict=True))
        return [self.seconds[shape] if shape in self.seconds else self._estimate(shape) for shape in shapes]

    def save(self) -> None:
        """Keep it, with what other processes have kept meanwhile. Where nothing can be written, nothing is kept."""
        if self.path is None:
            return
        kept = {**_read(self.path), **self.seconds}
        document = {
            "format": FORMAT,
            "device": self.setting.hardware,
            "runtime": self.setting.software,
            "threads": self.setting.threads,
            "layers": [[astuple(shape), seconds] for shape, seconds in kept.items()],
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, lambda file: file.write(json.dumps(document).encode()))
        except OSError:
            return

    def _estimate(self, shape: LayerShape) -> float:
        """By the multiply-accumulates that layers do in a second."""
        self.estimated += 1
        known = sorted(seconds / other.macs for other, seconds in self.seconds.items())
        return shape.macs * (known[len(known) // 2] if known else 1e-10)


def cache_folder() -> Path | None:
    """The user's folder for what can be made again. None: there is no home."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "extcon"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "extcon"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "extcon"


def _measured(shapes: Sequence[LayerShape], setting: Setting) -> list[float]:
    calls: list[Callable[[], object]] = []
    places = []
    for shape in shapes:
        around = frame(shape, setting)
        places.append((len(calls), around is not None))
        calls += [alone(shape, setting), *([around] if around is not None else [])]
    times = take_turns(calls, seconds=SECONDS * len(calls), clock=setting.clock)
    found = []
    for place, framed in places:
        whole = times.least(place)
        found.append(max(whole - times.least(place + 1), LEAST_SHARE * whole) if framed else whole)
    return found


def _read(path: Path) -> dict[LayerShape, float]:
    """What a file holds; nothing where it is not there or is no table."""
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            return {}
        return dict(_entries(document["layers"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _entries(rows: Iterable[tuple[Sequence[object], float]]) -> Iterable[tuple[LayerShape, float]]:
    for fields, seconds in rows:
        shape = LayerShape(*(tuple(value) if isinstance(value, list) else value for value in fields))  # type: ignore[arg-type]
        numbers = (shape.inputs, shape.outputs, shape.groups, *shape.sizes, *shape.kernel, *shape.stride)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a layer of a table has a size that is none")
        if type(seconds) is not float or not 0 < seconds < math.inf:
            raise ValueError("a layer of a table takes a time that is none")
        yield shape, seconds
