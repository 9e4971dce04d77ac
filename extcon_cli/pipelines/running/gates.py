"""The limits that a user sets a result, and what became of each. It measures nothing and stops nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from extcon_cli.errors import GateError, UsageError
from extcon_cli.recipe.durations import seconds_of, share_of
from extcon_cli.report.results import CommandResult
from extcon_cli.report.results.records import Gate, ModelStats
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
    max_latency: str | None = None
    """A length of time such as 4ms, or a share of the original's such as 0.6; of the first batch size measured."""

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
        if self.max_latency is not None:
            found.append(latency_gate(before, after, self.max_latency))
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


def latency_gate(before: ModelStats, after: ModelStats, limit: str) -> Gate:
    """A gate that the latency must not go beyond. One that nothing was measured for has failed."""
    text = f"--max-latency {limit}"
    if not before.latency or not after.latency:
        return Gate("max-latency", False, None, None, f"latency was not measured, and {text} asks for it")
    size = next(iter(after.latency))
    was, now = before.latency[size], after.latency[size]
    most = share_of(limit)
    most = was * most if most is not None else seconds_of(limit)
    said = f"a batch of {size} takes {1e3 * now:.3g} ms, {now / was:.3f} of the original"
    return Gate("max-latency", now <= most, most, now, f"{said}, {'within' if now <= most else 'more than'} {text}")


def enforce(gates: Sequence[Gate], result: CommandResult, *, hint: str = "") -> None:
    """GateError, which carries the result, where one has failed."""
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise GateError("; ".join(gate.message for gate in failed) + hint, gate=failed[0].name, result=result)
