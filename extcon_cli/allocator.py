"""What becomes of memory that is freed: it stays with a process that trains, or goes back to the system at once.

As it is, glibc gives the end of its heap back to the system after each training step and asks for it anew, page by
page, in the next. What is kept is what a step needs at its peak, so a process hardly grows by it
(docs/results/cost.md). And it keeps blocks of up to 32 MB for itself: several times a model's largest tensor after a
while.

This is about glibc's malloc and no other, and nothing is done where the environment says how malloc is to work.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, as malloc.h numbers them."""
LARGEST = 32 << 20
"""Bytes from which on a block is mapped by itself, and given back by itself; glibc takes no more."""
SMALL = 1 << 20
"""Bytes from which on a block is given back when it is freed, where memory is short."""
NEVER = 2**31 - 1
"""Bytes that have to be free at the end of the heap before they are given back; an int holds no more."""
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Of the environment, by which users say how glibc's malloc works."""


@contextmanager
def keeping_freed_memory(*, wanted: bool = True) -> Iterator[bool]:
    """Within, malloc keeps what is freed; it gives it back at the end. Yields whether it does.

    Afterwards the thresholds are those that glibc's own adjusting ends at: it has no way back to where it began.
    """
    malloc = _glibc() if wanted else None
    if malloc is None or not (malloc.mallopt(MMAP_THRESHOLD, LARGEST) and malloc.mallopt(TRIM_THRESHOLD, NEVER)):
        yield False
        return
    try:
        yield True
    finally:
        malloc.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
        malloc.malloc_trim(0)


def return_freed() -> None:
    """From now on, give the memory of large tensors back to the system as soon as they are freed."""
    malloc = _glibc()
    if malloc is not None:
        malloc.mallopt(MMAP_THRESHOLD, SMALL)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is glibc and the user has not told it what to do."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in VARIABLES):
        return None
    try:
        found = ctypes.CDLL(None) if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc") else None
    except (OSError, ValueError):  # another C library does not know the name
        return None
    return found if hasattr(found, "mallopt") and hasattr(found, "malloc_trim") else None
