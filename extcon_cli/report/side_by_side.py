"""Several models beside each other as rows and sentences: comparisons and sweeps. Knows no output format."""

from __future__ import annotations

from pathlib import Path

from extcon_cli.report.numbers import FALLING, count, duration, figure, judge
from extcon_cli.report.results.compare import CompareResult
from extcon_cli.report.results.prune import SweepResult
from extcon_cli.report.results.records import ModelStats

Row = tuple[str, ...]


def compared(result: CompareResult) -> list[Row]:
    """A heading, then of each file what it holds, costs and is worth."""
    batches = list(dict.fromkeys(batch for file in result.files for batch in file.latency))
    main = judge({name for file in result.files for name in file.metrics})
    names = [main] if main is not None else []
    rows: list[Row] = [("", "parameters", "MACs", "size", *(f"batch {batch}" for batch in batches), *names)]
    for file in result.files:
        costs = ["-" if cost is None else count(cost) for cost in (file.params, file.macs)]
        times = [duration(file.latency[batch]) if batch in file.latency else "-" for batch in batches]
        worth = [figure(name, file.metrics[name]) if name in file.metrics else "-" for name in names]
        rows.append((Path(file.path).name, *costs, count(file.bytes, "B"), *times, *worth))
    return rows


def measured_on(result: CompareResult) -> str:
    """Where the figures of a comparison come from, in one sentence."""
    data = f"{result.samples} test samples" if result.samples else "no data"
    runtimes = ", ".join(dict.fromkeys(file.runtime for file in result.files))
    return f"{data}; run by {runtimes} on this CPU, {result.threads} thread{'s' if result.threads > 1 else ''}"


def cost(quantity: str, stats: ModelStats) -> float:
    """What a sweep over this quantity shows a model's worth against: for shares of filters its MACs."""
    size = stats.size
    if quantity == "latency" and stats.latency:
        return next(iter(stats.latency.values()))
    return {"params": size.params, "size": size.bytes}.get(quantity, size.macs)


def worth(stats: ModelStats) -> float | None:
    """What a model is judged by, more for the better one; None: nothing was measured."""
    name = judge(stats.metrics)
    if name is None:
        return None
    return -stats.metrics[name] if name in FALLING else stats.metrics[name]


def sweep_rows(result: SweepResult) -> list[Row]:
    """A heading, the original, and a row for each target; the knee is marked."""
    main = judge(result.before.metrics) if result.before is not None else None
    batches = list(result.before.latency or ()) if result.before is not None else []
    shown = (*(f"batch {batch}" for batch in batches), *([main] if main else ()))
    rows: list[Row] = [(result.quantity, "parameters", "MACs", "size", *shown, "", "")]
    named: list[tuple[str, ModelStats | None, str]] = (
        [("original", result.before, "")] if result.before is not None else []
    )
    for point in result.points:
        stats = point.result.after if point.result is not None else None
        named.append((point.asked, stats, "written" if point.message is None else "FAILED"))
    for asked, stats, state in named:
        mark = "knee" if asked == result.knee else ""
        if stats is None:
            rows.append((asked, "-", "-", "-", *("-" for _ in shown), state, mark))
            continue
        size, known = stats.size, stats.latency or {}
        figures = [duration(known[batch]) if batch in known else "-" for batch in batches]
        figures += [figure(main, stats.metrics[main])] if main else []
        rows.append((asked, count(size.params), count(size.macs), count(size.bytes, "B"), *figures, state, mark))
    return rows


def sweep_outcome(result: SweepResult) -> list[str]:
    """What became of each target, a sentence each, and where the trade-off bends."""
    said = [
        f"{point.asked}: written to {point.output}" if point.output is not None else f"{point.asked}: {point.message}"
        for point in result.points
    ]
    if result.knee is not None:
        said.append(f"the trade-off bends at {result.quantity} {result.knee}: beyond it more is lost for what is saved")
    return said
