"""The task that a recipe names: a built-in one, or the user's own class. Trains and measures nothing."""

from __future__ import annotations

from pathlib import Path

from extcon_cli.checkpoint.trust import Trust
from extcon_cli.checkpoint.user_code import find_factory
from extcon_cli.errors import UsageError
from extcon_cli.tasks import TASKS, Task


def find_task(name: str, trust: Trust, beside: Path | None = None) -> Task:
    """The task; `file.py` may have moved to the folder `beside` (UsageError: not trusted, not there, or no task)."""
    if name in TASKS:
        return TASKS[name]()
    made = find_factory(name, trust_code=trust.named_code, beside=beside)()
    if not isinstance(made, Task):
        raise UsageError(f"task {name}: gives a {type(made).__name__}; subclass extcon_cli.tasks.Task")
    return made
