"""A result document as rows of text: what every kind of report and the terminal show. Knows no output format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extcon_cli.report.numbers import change, count, duration, factor, figure, percent

Document = Mapping[str, Any]
Row = tuple[str, ...]

NO_GAIN = "no gain expected"
"""The verdict of a bypass that its probe has stopped."""


def comparison(document: Document) -> list[Row]:
    """(what, before, after, change) for sizes, latencies and metrics; empty where nothing is compared."""
    if "before" not in document or "after" not in document:
        return []
    before, after = document["before"], document["after"]
    rows: list[Row] = []
    for name, key, unit in (("parameters", "params", ""), ("MACs", "macs", ""), ("size", "bytes", "B")):
        if key in before and key in after:
            old, new = before[key], after[key]
            rows.append((name, count(old, unit), count(new, unit), factor(old, new)))
    for batch, old in before.get("latency", {}).items():
        new = after["latency"][batch]
        words = ("faster", "slower")
        rows.append((f"latency, batch {batch}", duration(old), duration(new), factor(old, new, words)))
    for name, old in before.get("metrics", {}).items():
        new = after["metrics"][name]
        rows.append((name, figure(name, old), figure(name, new), change(name, old, new)))
    return rows


def metrics(document: Document) -> list[Row]:
    """(metric, value) of a command that measures, with the validation figure between them where there is one."""
    validation = document.get("validation") or {}
    return [
        (name, figure(name, validation[name]), figure(name, value))
        if name in validation
        else (name, figure(name, value))
        for name, value in document.get("metrics", {}).items()
    ]


def candidates(document: Document) -> list[tuple[str, str, str]]:
    """Each way of a bypass: its name, its validation loss, and the gain over going on as long."""
    losses = document.get("validation", {})
    base = losses.get("baseline")
    return [
        (
            name + (" (the best)" if name == document["verdict"] else ""),
            figure("loss", loss),
            percent(1 - loss / base) if base and name != "baseline" else "",
        )
        for name, loss in losses.items()
    ]


def outcome(document: Document) -> str:
    """Which way of a bypass was kept, in one sentence. Empty: another command."""
    if document["command"] != "bypass":
        return ""
    if document["verdict"] == NO_GAIN:
        return "no gain was to be expected: the model is as it was"
    return f"the best on the validation data: {document['verdict']}"


def evidence(document: Document) -> str:
    """Whether a model is stalled, and by what that shows, in one sentence. Empty: nobody looked."""
    found = document.get("diagnosis")
    if not found:
        return ""
    units, dead, rare = (sum(row[key] for row in found["dead"].values()) for key in ("units", "dead", "nearly"))
    return (
        f"{'stalled' if found['stalled'] else 'not stalled'}: the loss falls {percent(found['slope']['relative'])} in "
        f"1000 steps (t {found['slope']['t']:.1f}), {dead} of {units} units are dead, {rare} nearly, "
        f"the gradient's norm is {found['gradient']['norm']:.2g}; "
        "probed in miniature, gain over going on: "
        + ", ".join(
            f"{name} {percent(row['gain'])} +- {percent(row['error'])}"
            for name, row in found["probe"].items()
            if name != "baseline"
        )
    )


MOMENTS = {
    "embed_difference": "embedding",
    "mirror_difference": "mirroring",
    "projection_difference": "projecting",
    "difference_after_contraction": "contracting",
}
"""When a bypass measures whether outputs moved."""


def exactness(document: Document) -> list[str]:
    """What was measured at the removal, or at embedding and contracting each way of a bypass, a sentence each."""
    if document["command"] == "bypass":
        return [_moved(name, found) for name, found in document["certificate"].items()]
    if "removal" not in document:
        return []
    removal, certificate, after = document["removal"], document["certificate"], document["after"]
    main = next((name for name in ("accuracy", "r2", "loss") if name in after["metrics"]), None)
    sentences = [
        f"{removal['filters']} of {removal['prunable']} filters removed: {percent(removal['ratio'])}"
        + (f", asked for {percent(removal['requested_ratio'])}" if removal["requested_ratio"] is not None else "")
    ]
    if main is not None:
        moments = (removal["metrics_before_removal"], removal["metrics_after_removal"], after["metrics"])
        shown = [figure(main, moment[main]) for moment in moments]
        sentences.append(
            f"{main}: {shown[0]} right before removal, {shown[1]} right after, {shown[2]} after fine-tuning"
        )
    double = certificate["double"]
    sentences.append(
        f"outputs moved by at most {removal['relative_difference']:.1e} of the largest at removal"
        + (f" ({double['relative']:.1e} in float64)" if double else "")
        + f"; arg-max agrees on {percent(removal['argmax_agreement'])}"
    )
    return sentences


def _moved(way: str, found: Mapping[str, Any]) -> str:
    if "reason" in found:
        return f"{way} gave no model: {found['reason']}"
    shown = ", ".join(f"{found[key]:.1e} at {moment}" for key, moment in MOMENTS.items() if key in found)
    restarts = found.get("restarts")
    return f"{way}: outputs moved by {shown}, of the largest" + (f"; {restarts} restarts" if restarts else "")


def differences(document: Document) -> list[Row]:
    """(on which inputs, largest difference, share of the largest output, arg-max agreement, samples)."""
    names = {
        "random": "random inputs, float32",
        "double": "random inputs, float64",
        "evaluation": "real inputs, float32",
    }
    return [
        (names[key], f"{gap['largest']:.1e}", f"{gap['relative']:.1e}", percent(gap["agreement"]), str(gap["samples"]))
        for key, gap in document.get("differences", {}).items()
        if gap is not None
    ]


def widths(document: Document) -> list[Mapping[str, Any]]:
    """The layers that have a width of their own: normalisation follows the layer before it."""
    return [
        layer for layer in document.get("layers", []) if layer.get("before") is not None and "Norm" not in layer["kind"]
    ]
