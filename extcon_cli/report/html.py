"""The report as one self-contained HTML file: nothing is loaded from anywhere, light and dark."""

from __future__ import annotations

from typing import Any

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from extcon_cli.report import figures
from extcon_cli.report.document import (
    Document,
    candidates,
    comparison,
    differences,
    evidence,
    exactness,
    metrics,
    outcome,
    widths,
)
from extcon_cli.report.numbers import count, duration, percent


def html(document: Document) -> str:
    """Whatever the document holds; sections without content are left out."""
    environment = Environment(loader=PackageLoader("extcon_cli.report"), autoescape=True, trim_blocks=True)
    environment.filters.update(count=count, duration=duration, percent=percent)
    return environment.get_template("report.html.j2").render(
        document=document,
        comparison=comparison(document),
        metrics=metrics(document),
        exactness=exactness(document),
        candidates=candidates(document),
        evidence=evidence(document),
        outcome=outcome(document),
        certificate=document["certificate"] if "removal" in document else None,
        differences=differences(document),
        widths=widths(document),
        layers=document["layers"] if document["command"] == "inspect" else [],
        groups=document.get("groups", []),
        frozen=document.get("frozen", []),
        seconds=document.get("seconds", {}),
        recipe=yaml.safe_dump(document["recipe"], sort_keys=False) if document.get("recipe") else "",
        figures=_figures(document),
    )


def _figures(document: Document) -> list[dict[str, Any]]:
    """Title, caption and SVG of every figure that the document's history allows."""
    history = document.get("history") or {}
    phases = [phase for phase in history.get("phases", []) if phase.get("steps")]
    drawn: list[tuple[str, str, str | None]] = []
    trace = history.get("bifurcation")
    if trace and len(trace["steps"]) > 1:
        going, every = sum(trace["decided"]), len(trace["decided"])
        drawn.append(
            (
                "Bifurcation",
                f"Each line is a filter: {going} of {every} go. The norm of a decided filter follows the flow to "
                f"exactly zero; its catalyst d survives. At most {figures.LINES} lines of each colour are drawn.",
                figures.bifurcation(trace),
            )
        )
    if phases and document["command"] == "bypass":
        drawn.append(("Loss", "Of each way from theta*, on training batches.", figures.branches(phases)))
        traced = [phase for phase in phases if phase.get("trace")]
        for phase in traced:
            if any(row[1] for row in phase["trace"]):
                mirrored = phase["phase"].startswith("mirror")
                said = "opt_1 lets D grow; " + (
                    "then mirror images of the units stand for it." if mirrored else "opt_2 brings it back to zero."
                )
                drawn.append((f"The way back of {phase['phase']}", said, figures.comeback(phase["trace"])))
        if traced:
            said = "From the parameters at its start, the extension's among them; the angle is seen from the origin."
            drawn.append(("How far each way goes", said, figures.paths(traced)))
    elif phases:
        drawn.append(("Loss", "All phases behind each other; averaged over a few steps.", figures.losses(phases)))
        drawn.append(("Accuracy", "On the validation data, which are never trained on.", figures.accuracy(phases)))
    return [{"title": title, "caption": text, "svg": Markup(svg)} for title, text, svg in drawn if svg is not None]
