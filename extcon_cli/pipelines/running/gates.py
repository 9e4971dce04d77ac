"""The limits that a user sets a result, and what became of each. It measures nothing and stops nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from extcon_cli.errors import GateError, UsageError
from extcon_cli.report.records import Gate, ModelStats
from extcon_cli.report.results import CommandResult
from extcon_cli.tasks import Task


@dataclass(frozen=True)
class Limits:
    """What the result has to keep to. None: anything goes."""

    max_drop: float | None = None
    """Points of accuracy (of 100 R2, 100 mIoU...: `Task.drop`) that may be lost."""
    min_accuracy: float | None = None
    """Between 0 and 1."""
    max_size: int | None = None
    """Bytes of all parameters and buffers, as stored."""

    def checked(self, task: Task, before: ModelStats, after: ModelStats) -> tuple[Gate, ...]:
        """One gate for each limit."""
        found = []
        if self.max_drop is not None:
            drop = task.drop(before.metrics, after.metrics)
            found.append(gate("max-drop", drop, self.max_drop, f"{drop:.2f} points were lost"))
        if self.min_accuracy is not None:
            found.append(accuracy_gate(after.metrics.get("accuracy"), self.min_accuracy))
        if self.max_size is not None:
            size = after.size.bytes
            found.append(gate("max-size", size, self.max_size, f"{size} bytes are left"))
        return tuple(found)


NO_LIMITS = Limits()


def gate(name: str, value: float, limit: float, said: str) -> Gate:
    """A gate that the value must not go beyond."""
    passed = value <= limit
    return Gate(name, passed, limit, value, f"{said}, {'within' if passed else 'more than'} --{name} {limit:g}")


def accuracy_gate(value: float | None, limit: float) -> Gate:
    """A gate that the accuracy must reach. UsageError: the task has none."""
    if value is None:
        raise UsageError("--min-accuracy: this task has no accuracy")
    passed = value >= limit
    said = f"accuracy {100 * value:.2f} %, {'at least' if passed else 'less than'} --min-accuracy {limit:g}"
    return Gate("min-accuracy", passed, limit, value, said)


def enforce(gates: Sequence[Gate], result: CommandResult, *, hint: str = "") -> None:
    """GateError, which carries the result, where one has failed."""
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise GateError("; ".join(gate.message for gate in failed) + hint, gate=failed[0].name, result=result)
