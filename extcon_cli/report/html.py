"""The report as one self-contained HTML file: nothing is loaded from anywhere, light and dark."""

from __future__ import annotations

from dataclasses import dataclass

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from extcon_cli.report import charts, figures
from extcon_cli.report.document import caution, gate_rows, run_facts, sections, subject
from extcon_cli.report.drawing import svg
from extcon_cli.report.numbers import count, duration, judge, percent
from extcon_cli.report.results import CommandResult
from extcon_cli.report.results.bypass import BypassResult
from extcon_cli.report.results.compare import CompareResult
from extcon_cli.report.results.prune import BifurcationTrace, PruneHistory, PruneResult, SweepResult
from extcon_cli.report.results.records import PhaseRecord, RunFacts
from extcon_cli.report.results.train import EvaluateResult, TrainResult
from extcon_cli.report.side_by_side import measured_on

Entry = tuple[str, str, str | None]
"""Title, caption and SVG of a figure; None: there is nothing to draw."""


@dataclass(frozen=True)
class Drawing:
    """A figure of the report."""

    title: str
    caption: str
    svg: Markup


def html(result: CommandResult) -> str:
    """Whatever there is to show of a result; sections without content are left out."""
    environment = Environment(loader=PackageLoader("extcon_cli.report"), autoescape=True, trim_blocks=True)
    environment.filters.update(count=count, duration=duration, percent=percent)
    run = run_facts(result)
    return environment.get_template("report.html.j2").render(
        command=result.command,
        version=result.version,
        subject=subject(result),
        device=run.device if run else result.device if isinstance(result, EvaluateResult) else "",
        run=run,
        split=result.split if isinstance(result, EvaluateResult) else "test",
        caution=caution(result),
        shown=sections(result),
        gates=gate_rows(result),
        recipe=_recipe(run),
        figures=drawings(result),
    )


def _recipe(run: RunFacts | None) -> str:
    return yaml.safe_dump(dict(run.recipe), sort_keys=False) if run is not None and run.recipe else ""


def drawings(result: CommandResult) -> list[Drawing]:
    """The figures that a result's history allows."""
    found: list[Entry] = []
    if isinstance(result, CompareResult):
        found = [("Side by side", measured_on(result), svg(charts.compared(result)))]
    if isinstance(result, SweepResult):
        said = "After fine-tuning, and right after removal; a ring marks the knee."
        found = [("Trade-off", said, svg(charts.trade_off(result)))]
    history = result.history if isinstance(result, PruneResult | BypassResult | TrainResult) else None
    phases = [phase for phase in history.phases if phase.steps] if history is not None else []
    if isinstance(history, PruneHistory):
        found = _of_bifurcation(history.bifurcation)
    if phases and isinstance(result, BypassResult):
        found = _of_branches(phases)
    elif phases:
        found.append(("Loss", "All phases behind each other; averaged over a few steps.", figures.losses(phases)))
        said = "On the validation data, which are never trained on."
        curve = next((phase.validation for phase in phases if phase.validation is not None), None)
        name = judge(curve.metrics) if curve is not None else None
        found.append(((name or "").capitalize(), said, figures.judged(phases)))
    return [Drawing(title, text, Markup(drawn)) for title, text, drawn in found if drawn is not None]


def _of_bifurcation(trace: BifurcationTrace) -> list[Entry]:
    """The flow of every filter, where one was recorded."""
    if len(trace.steps) < 2:
        return []
    going, every = sum(trace.decided), len(trace.decided)
    said = (
        f"Each line is a filter: {going} of {every} go. The norm of a decided filter follows the flow to "
        f"exactly zero; its catalyst d survives. At most {figures.LINES} lines of each colour are drawn."
    )
    return [("Bifurcation", said, figures.bifurcation(trace))]


def _of_branches(phases: list[PhaseRecord]) -> list[Entry]:
    """How each branch of a bypass went."""
    found: list[Entry] = [("Loss", "Of each way from theta*, on training batches.", figures.branches(phases))]
    traced = [phase for phase in phases if phase.trace]
    for phase in traced:
        if any(row[1] for row in phase.trace or ()):
            mirrored = phase.phase.startswith("mirror")
            said = "opt_1 lets D grow; " + (
                "then mirror images of the units stand for it." if mirrored else "opt_2 brings it back to zero."
            )
            found.append((f"The way back of {phase.phase}", said, figures.comeback(phase.trace or ())))
    if traced:
        said = "From the parameters at its start, the extension's among them; the angle is seen from the origin."
        found.append(("How far each way goes", said, figures.paths(traced)))
    return found
