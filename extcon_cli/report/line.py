"""A result in one line: what `--quiet` prints."""

from __future__ import annotations

from extcon_cli.report.document import exported, outcome
from extcon_cli.report.numbers import change, count, duration, factor, figure, judge
from extcon_cli.report.results import CommandResult, Refused
from extcon_cli.report.results.bypass import BypassResult
from extcon_cli.report.results.compare import ComparedFile, CompareResult
from extcon_cli.report.results.export import ExportResult
from extcon_cli.report.results.inspect import InspectResult, VerifyResult
from extcon_cli.report.results.prune import PruneResult, SweepResult
from extcon_cli.report.results.records import Metrics
from extcon_cli.report.results.train import EvaluateResult, TrainResult
from extcon_cli.report.side_by_side import sweep_outcome


def line(result: CommandResult) -> str:
    """What came out, and where it is."""
    if isinstance(result, PruneResult):
        parts = [f"{count(result.after.size.params)} parameters ({_smaller(result)})"]
        if name := judge(result.after.metrics):
            now = result.after.metrics[name]
            parts.append(f"{name} {figure(name, now)} ({change(name, result.before.metrics[name], now)})")
        return f"{result.run.output}: {', '.join(parts)}"
    if isinstance(result, BypassResult):
        return f"{result.run.output}: {outcome(result)}"
    if isinstance(result, TrainResult):
        return f"{result.run.output}: {_figures(result.metrics)}"
    if isinstance(result, EvaluateResult):
        return f"{result.checkpoint}: {_figures(result.metrics)}"
    if isinstance(result, InspectResult):
        said = f": {result.diagnosis.verdict}" if result.diagnosis is not None else ""
        return f"{result.checkpoint}: {count(result.size.params)} parameters, {count(result.size.macs)} MACs{said}"
    if isinstance(result, VerifyResult):
        verdict = "within" if result.verdict else "beyond"
        return f"{result.checkpoint} and {result.other}: {verdict} {result.max_diff:g} of the largest output"
    if isinstance(result, ExportResult):
        return f"{result.output}: {exported(result)}"
    if isinstance(result, SweepResult):
        return "; ".join(sweep_outcome(result))
    if isinstance(result, CompareResult):
        return "; ".join(_compared(file) for file in result.files)
    assert isinstance(result, Refused)
    return f"{result.checkpoint}: {result.message}"


def _smaller(result: PruneResult) -> str:
    return factor(result.before.size.params, result.after.size.params)


def _compared(file: ComparedFile) -> str:
    parts = [count(file.bytes, "B"), *(duration(seconds) for seconds in list(file.latency.values())[:1])]
    if name := judge(file.metrics):
        parts.append(f"{name} {figure(name, file.metrics[name])}")
    return f"{file.path}: {', '.join(parts)}"


def _figures(metrics: Metrics) -> str:
    return ", ".join(f"{name} {figure(name, value)}" for name, value in metrics.items())
