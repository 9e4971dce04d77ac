"""Charts of several models beside each other, for the HTML report and as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from extcon_cli.report.drawing import ALIVE, DEAD, GREY, legend, new_figure, png
from extcon_cli.report.numbers import SHARES, count, duration, figure, judge
from extcon_cli.report.results.compare import ComparedFile, CompareResult
from extcon_cli.report.results.prune import SweepResult
from extcon_cli.report.results.records import ModelStats
from extcon_cli.report.side_by_side import cost

Bars = tuple[str, list[float | None], list[str]]
"""What is compared, the value of each file (None: not known), and how it is written."""


def compared(result: CompareResult) -> Figure:
    """A panel for each figure that is known, a bar for each file."""
    panels = list(_panels(result.files))
    chart, every = new_figure(len(panels), height=1.0 + 0.32 * len(result.files))
    places, names = range(len(result.files)), [Path(file.path).name for file in result.files]
    for number, (axes, (title, values, shown)) in enumerate(zip(every, panels, strict=True)):
        axes.barh(places, [value or 0.0 for value in values], height=0.62, color=ALIVE, alpha=0.8)
        largest = max((value or 0.0 for value in values), default=0.0) or 1.0
        for place, value, text in zip(places, values, shown, strict=True):
            axes.text((value or 0.0) + 0.03 * largest, place, text, va="center", fontsize=7.5, color=GREY)
        axes.set(xlim=(0, 1.55 * largest), xticks=[], ylim=(len(result.files) - 0.4, -0.6))
        axes.set_title(title, fontsize=9, color=GREY, loc="left")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_yticks(list(places), names if number == 0 else [""] * len(names))
    return chart


def trade_off(result: SweepResult) -> Figure:
    """What each target is worth against what is left, the knee ringed."""
    points = [(point.asked, point.result) for point in result.points if point.result is not None]
    main = judge(result.before.metrics) if result.before is not None else None
    chart, (axes,) = new_figure(1)
    if result.before is None or main is None or not points:
        axes.text(0.5, 0.5, "nothing was measured", ha="center", color=GREY)
        return chart
    scale = 100 if main in SHARES else 1
    whole = cost(result.quantity, result.before)

    def place(stats: ModelStats) -> tuple[float, float]:
        return 100 * cost(result.quantity, stats) / whole, scale * stats.metrics[main]

    points.sort(key=lambda point: cost(result.quantity, point[1].after))
    found = [place(point.after) for _, point in points]
    original = place(result.before)
    axes.plot(*zip(*found, original, strict=True), color=ALIVE, lw=1.4, marker="o", ms=4, label="after fine-tuning")
    removed = [point.removal.metrics_after_removal.get(main) for _, point in points]
    at_once = [(x, scale * value) for (x, _), value in zip(found, removed, strict=True) if value is not None]
    axes.plot(*zip(*at_once, original, strict=True), color=DEAD, lw=1, ls="--", marker=".", label="right after removal")
    for (asked, _), (x, y) in zip([*points, ("original", None)], [*found, original], strict=True):
        axes.annotate(asked, (x, y), (0, 9), textcoords="offset points", fontsize=8, color=GREY, ha="center")
        if asked == result.knee:
            axes.plot(x, y, "o", ms=13, mfc="none", mec=DEAD, mew=1.4)
    left = {"params": "parameters", "size": "size", "latency": "latency"}.get(result.quantity, "MACs")
    axes.set(xlabel=f"{left} left (%)", ylabel=f"{main}{' (%)' if main in SHARES else ''}")
    axes.margins(x=0.06, y=0.16)
    legend(axes)
    return chart


def picture(result: CompareResult | SweepResult) -> bytes:
    """The chart as PNG."""
    return png(compared(result) if isinstance(result, CompareResult) else trade_off(result))


def _panels(files: Sequence[ComparedFile]) -> Sequence[Bars]:
    main = judge({name for file in files for name in file.metrics})
    found: list[Bars] = []

    def panel(title: str, values: list[float | None], shown: list[str]) -> None:
        if any(value is not None for value in values):
            found.append((title, values, shown))

    if main is not None:
        values = [file.metrics.get(main) for file in files]
        panel(main, values, ["-" if value is None else figure(main, value) for value in values])
    for title, sizes, unit in (
        ("parameters", [file.params for file in files], ""),
        ("MACs", [file.macs for file in files], ""),
        ("size", [file.bytes for file in files], "B"),
    ):
        panel(title, [*sizes], ["-" if value is None else count(value, unit) for value in sizes])
    for batch in dict.fromkeys(batch for file in files for batch in file.latency):
        times = [file.latency.get(batch) for file in files]
        panel(f"latency, batch {batch}", times, ["-" if value is None else duration(value) for value in times])
    return found
