"""`--deterministic`: only algorithms of torch that give the same bits in every run, or a refusal. It seeds nothing.

What is drawn at random depends on the recipe's seed anyway; on CPUs a run repeats its bits with the same number of
threads. On GPUs some of torch's algorithms add up in an order that changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from extcon_cli.errors import UsageError, first_line

VARIABLE = "EXTCON_DETERMINISTIC"


def wanted() -> bool:
    """Did the user ask for it?"""
    return bool(os.environ.get(VARIABLE))


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Within, where it is asked for: UsageError in the place of an operation that torch cannot repeat bit for bit."""
    if not asked:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # else the fastest algorithm of the moment is taken
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise UsageError(f"--deterministic: {first_line(error)} Go without it, or on another --device") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
