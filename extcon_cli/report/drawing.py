"""How every figure looks, and how it becomes SVG or PNG. What figures show is for the files beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

ALIVE, DEAD, GREY = "#2f7fb8", "#d1603d", "#8a8f98"


def new_figure(count: int, height: float = 3.1) -> tuple[Figure, Sequence[Axes]]:
    """A figure of so many panels beside each other; `height` in inches."""
    figure = Figure(figsize=(8.6, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    every = figure.subplots(1, count, squeeze=False)[0]
    for axes in every:
        axes.patch.set_alpha(0)
        axes.grid(color=GREY, alpha=0.2, lw=0.6)
        axes.tick_params(colors=GREY, labelsize=8)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(GREY)
        axes.xaxis.label.set(color=GREY, size=9)
        axes.yaxis.label.set(color=GREY, size=9)
    return figure, list(every)


def legend(axes: Axes) -> None:
    """A legend where there is more than one kind of line."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if len(unique) > 1:
        axes.legend(unique.values(), unique.keys(), frameon=False, fontsize=8, labelcolor=GREY)


def svg(figure: Figure) -> str:
    """The figure as an <svg> element: no dates, the same bytes each time, ids of its own; paths in tenths of points."""
    with mpl.rc_context(
        {
            "svg.hashsalt": "extcon",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "path.simplify_threshold": 0.3,  # of a point, by which a line may be off
        }
    ):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body))
    return re.sub(r'(?<=<path d=")[^"]*', lambda path: re.sub(r"\.(\d)\d+", r".\1", path[0]), body)


def png(figure: Figure) -> bytes:
    """The figure as a picture on white, 150 dots an inch; the same bytes each time."""
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return stream.getvalue()
