"""The figures of a run in the HTML report, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import NullFormatter

from extcon_cli.report.drawing import ALIVE, DEAD, GREY, legend, new_figure, svg
from extcon_cli.report.numbers import SHARES, judge
from extcon_cli.report.results.prune import BifurcationTrace
from extcon_cli.report.results.records import PhaseRecord

LINES, MOMENTS = 60, 40
"""Filters of each colour drawn in the bifurcation, and points of each; more make the file large, not clearer."""


def losses(phases: Sequence[PhaseRecord]) -> str:
    """Loss over the steps of all phases, one after the other, with those on the validation data."""
    figure, (axes,) = new_figure(1)
    start = 0
    for number, phase in enumerate(phases):
        steps = np.asarray(phase.steps, float) + start
        axes.plot(steps, phase.loss, color=ALIVE, lw=1.2, label="training" if number == 0 else None)
        curve = phase.validation
        if curve is not None and "loss" in curve.metrics:
            at = np.asarray(curve.steps, float) + start
            axes.plot(at, curve.metrics["loss"], color=DEAD, lw=1.2, marker="o", ms=2.5, label="validation")
        if number:
            axes.axvline(start, color=GREY, lw=0.8, ls=":")
        if len(steps):
            axes.text(start, 1.02, f" {phase.phase}", transform=axes.get_xaxis_transform(), fontsize=8, color=GREY)
            start = int(steps[-1])
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    legend(axes)
    return svg(figure)


def judged(phases: Sequence[PhaseRecord]) -> str | None:
    """What the model is judged by, on the validation data over the steps of all phases; None where there is nothing."""
    figure, (axes,) = new_figure(1)
    start, drawn = 0, False
    for phase in phases:
        curve = phase.validation
        name = judge(curve.metrics) if curve is not None else None
        if curve and name and name != "loss":
            scale = 100 if name in SHARES else 1
            values = scale * np.asarray(curve.metrics[name], float)
            axes.plot(np.asarray(curve.steps, float) + start, values, color=ALIVE, lw=1.2, marker="o", ms=3)
            axes.set(ylabel=f"{'R2' if name == 'r2' else name}, validation{' (%)' if name in SHARES else ''}")
            drawn = True
        start += phase.steps[-1] if phase.steps else 0
    axes.set(xlabel="step")
    return svg(figure) if drawn else None


def branches(phases: Sequence[PhaseRecord]) -> str:
    """The loss of every way from theta*, over the same steps."""
    figure, (axes,) = new_figure(1)
    for phase in phases:
        axes.plot(phase.steps, phase.loss, lw=1.1, label=phase.phase)
    axes.set(xlabel="step from theta*", ylabel="loss", yscale="log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    legend(axes)
    return svg(figure)


def comeback(trace: Sequence[Sequence[float]]) -> str:
    """||D|| and ||A D W|| of an extended model over the steps (Jung & Lee, Fig. 3b, 4c)."""
    steps, norms, constraints = np.asarray(trace, float).T[:3]
    figure, (axes,) = new_figure(1)
    axes.plot(steps, norms, color=ALIVE, lw=1.2, label="‖D‖")
    if constraints.any():
        axes.plot(steps, constraints, color=DEAD, lw=1.2, label="‖ADW‖")
    axes.set(xlabel="step from theta*")
    legend(axes)
    return svg(figure)


def paths(phases: Sequence[PhaseRecord]) -> str:
    """Distance and angle of every way from its start, and its step sizes (Jung & Lee, Fig. 3c, 3d, 5)."""
    figure, every = new_figure(3)
    labels = ("distance", "angle (degrees)", "step size")
    for axes, column, label in zip(every, (3, 4, 5), labels, strict=True):
        for phase in phases:
            rows = np.asarray(phase.trace, float).T
            axes.plot(rows[0], rows[column], lw=1.1, label=phase.phase)
        axes.set(xlabel="step from theta*", ylabel=label)
    every[-1].set_yscale("log")
    every[-1].yaxis.set_minor_formatter(NullFormatter())
    legend(every[0])
    return svg(figure)


def bifurcation(trace: BifurcationTrace) -> str:
    """The norm of each filter's F (left) and its catalyst d (right) over time, dead and alive in two colours."""
    decided, steps = np.asarray(trace.decided, bool), np.asarray(trace.steps, float)
    shown = np.unique(np.linspace(0, len(steps) - 1, MOMENTS).astype(int))
    figure, (left, right) = new_figure(2)
    for axes, moments, label in ((left, trace.norm, "‖F‖"), (right, trace.d, "d")):
        values = np.asarray(moments, float)  # (moments, filters)
        for mask, colour, name in ((~decided, ALIVE, "stays"), (decided, DEAD, "goes")):
            chosen = np.flatnonzero(mask)
            if len(chosen) > LINES:
                chosen = chosen[np.linspace(0, len(chosen) - 1, LINES).astype(int)]
            broken = np.full((len(chosen), 1), np.nan)  # all lines are one path, which is thinned where it is straight
            x = np.hstack([np.broadcast_to(steps[shown], (len(chosen), len(shown))), broken])
            y = np.hstack([values[np.ix_(shown, chosen)].T, broken])
            axes.plot(x.ravel(), y.ravel(), color=colour, lw=0.6, alpha=0.5, label=name)
        top = max(float(np.nanquantile(values, 0.999)) if values.size else 0.0, 1e-6)
        axes.set(xlim=(0, max(float(steps[-1]), 1.0)), ylim=(-0.03 * top, 1.08 * top), xlabel="step", ylabel=label)
    legend(right)
    return svg(figure)
