"""Freed memory stays with the process while it trains, or goes back at once: on glibc alone, where nobody else says."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from extcon_cli import allocator
from extcon_cli.allocator import keeping_freed_memory

ON_GLIBC = pytest.mark.skipif(allocator._glibc() is None, reason="another C library, or told how to work")


def page_faults() -> int:
    """Of taking 128 MiB in blocks of 4 MiB, writing to them, and letting them go."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1 << 20) for _ in range(32)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@ON_GLIBC
def test_what_is_freed_is_found_again_and_given_back_at_the_end() -> None:
    pages = 32 * (4 << 20) // resource.getpagesize()
    with keeping_freed_memory() as kept:
        assert kept
        assert min(page_faults() for _ in range(4)) < pages / 2  # small blocks of others may lie between
    assert page_faults() > pages / 2


@pytest.mark.parametrize("name", allocator.VARIABLES)
def test_what_the_user_says_of_malloc_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "131072")
    monkeypatch.setattr(ctypes, "CDLL", None)  # it is not even asked
    with keeping_freed_memory() as kept:
        assert not kept


@pytest.mark.parametrize(("platform", "library"), [("darwin", "glibc 2.36"), ("linux", None), ("linux", "musl")])
def test_other_allocators_are_left_alone(platform: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in allocator.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.sys, "platform", platform)
    monkeypatch.setattr(allocator.os, "confstr", lambda name: library)
    monkeypatch.setattr(ctypes, "CDLL", None)
    with keeping_freed_memory() as kept:
        assert not kept


def test_a_c_library_that_does_not_know_its_name_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(allocator.os, "confstr", refuses)
    with keeping_freed_memory() as kept:
        assert not kept


def test_nothing_is_told_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", None)
    with keeping_freed_memory(wanted=False) as kept:
        assert not kept


@ON_GLIBC
def test_where_memory_is_short_blocks_go_back_when_they_are_freed() -> None:
    """In a process of its own: a block that fits where another was freed before is no new one."""
    program = """
import resource
from extcon_cli.allocator import return_freed
bytearray(24 << 20)  # from now on glibc would keep blocks up to this size
return_freed()
blocks = [bytearray(4 << 20) for _ in range(8)]
held = int(open("/proc/self/statm").read().split()[1])
del blocks
left = int(open("/proc/self/statm").read().split()[1])
assert (held - left) * resource.getpagesize() > 7 * (4 << 20), (held, left)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
