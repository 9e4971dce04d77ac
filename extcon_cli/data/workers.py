"""One set of worker processes for a run: torch's DataLoader, kept between epochs and shared by all splits.

Workers are fresh processes, never forked from this one: a fork inherits its threads' locks and the other workers'
handles. They are told by `Request` what to read next, so no pass over the data starts new ones.
"""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import forkserver, resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader

from extcon_cli.data.reading import Found, Reading, Request, Unreadable
from extcon_cli.errors import DataError

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How a worker begins. The fork server imports torch once for all of them; it is a fresh process too."""


class Reader:
    """Reads batches of the datasets, with `workers` processes a few batches ahead, or in this process (0).

    Several passes may be under way. A pass that another has interrupted begins anew where it was.
    """

    def __init__(self, reading: Reading, *, workers: int = 0) -> None:
        self.reading, self.workers = reading, workers
        self.on_skip: Callable[[str], None] = lambda line: None
        """Told of each sample that is left out, once."""
        self._skipped: set[str] = set()
        self._asked = _Asked()
        self._loader: DataLoader[Any] | None = None
        self._owner: object = None
        if workers:
            _start_fork_server()

    def part(self, dataset: Any) -> int:
        """The number of a dataset in a request."""
        return next(number for number, known in enumerate(self.reading.datasets) if known is dataset)

    def read(self, requests: Sequence[Request], *, pin: bool = False) -> Iterator[Found]:
        """The batches asked for, in order. DataError: one cannot be read; the line names the sample.

        `pin`: in memory from which a GPU copies faster.
        """
        if not self.workers:
            for request in requests:
                yield self._whole(self.reading[request])
            return
        done, own = 0, object()
        found: Iterator[Any] = iter(())
        while done < len(requests):
            if self._owner is not own:
                self._asked.requests, self._owner = list(requests[done:]), own
                found = self._begin(pin)
            batch = self._next(found)
            done += 1
            yield self._whole(batch)

    def _begin(self, pin: bool) -> Iterator[Any]:
        if self._loader is None:
            self._loader = DataLoader(
                self.reading,
                sampler=self._asked,
                batch_size=None,  # a request is a batch
                collate_fn=_as_it_is,
                num_workers=self.workers,
                persistent_workers=True,
                multiprocessing_context=METHOD,
                worker_init_fn=partial(_begin_worker, list(warnings.filters)),
                pin_memory=pin,
                generator=torch.Generator().manual_seed(0),  # else the loader would draw from the model's own
            )
        return iter(self._loader)

    def _next(self, found: Iterator[Any]) -> Any:
        try:
            return next(found)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            fix = "lower data.batch_size, or set data.workers: 0"
            raise DataError(
                f"{self.reading.name}: a process that read data was killed, perhaps for want of memory: {fix}"
            ) from error

    def _whole(self, found: Found | Unreadable) -> Found:
        if isinstance(found, Unreadable):
            raise DataError(found.message)
        for line in found.skipped:
            if line not in self._skipped:
                self._skipped.add(line)
                self.on_skip(f"left out: {line}")
        return found


class _Asked(torch.utils.data.Sampler[Request]):
    """What the reader was asked for last: the loader's sampler stays the same for the whole run.

    It does not know the reader: whoever drops the reader ends its processes then, and not when garbage is collected.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(filters: list[Any], number: int) -> None:
    """In a worker: Ctrl-C is the main process's to answer, and warnings are shown as there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filters[:] = filters  # type: ignore[index]


def _start_fork_server() -> None:
    """Let it import torch while this process goes on with its work."""
    if METHOD != "forkserver":
        return
    multiprocessing.get_context(METHOD).set_forkserver_preload([Reading.__module__, "torchvision.transforms.v2"])
    resource_tracker.ensure_running()  # else the fork server starts it, which ends the blocking below
    # blocked there and so in the workers: a Ctrl-C while one of them begins would print its traceback
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
