"""A result as rows and sentences: what every kind of report and the terminal show. Knows no output format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from extcon_cli.report.numbers import change, count, duration, factor, figure, judge, percent
from extcon_cli.report.results import CommandResult, Refused
from extcon_cli.report.results.bypass import NO_GAIN, BranchCertificate, BypassResult, Diagnosis
from extcon_cli.report.results.compare import CompareResult
from extcon_cli.report.results.export import ExportResult
from extcon_cli.report.results.inspect import THESE_WEIGHTS, GroupSummary, InspectResult, VerifyResult
from extcon_cli.report.results.prune import FolderFigures, FrozenGroup, PruneResult, SweepResult
from extcon_cli.report.results.records import (
    CertificateRecord,
    LatencyFigures,
    Layer,
    LayerWidth,
    Metrics,
    ModelStats,
    OutputDifference,
    RunFacts,
)
from extcon_cli.report.results.train import EvaluateResult, TrainResult
from extcon_cli.report.side_by_side import Row, compared, sweep_outcome, sweep_rows


@dataclass(frozen=True)
class Sections:
    """All that a report may show of a result; what does not apply is empty."""

    comparison: Sequence[Row] = ()
    metrics: Sequence[Row] = ()
    differences: Sequence[Row] = ()
    exactness: Sequence[str] = ()
    candidates: Sequence[Row] = ()
    files: Sequence[Row] = ()
    outcome: str = ""
    signs: Sequence[Row] = ()
    evidence: str = ""
    certificate: CertificateRecord | None = None
    argmax: bool = True
    """Show in the certificate on how many samples the arg-max agrees."""
    layers: Sequence[Layer] = ()
    groups: Sequence[GroupSummary] = ()
    widths: Sequence[LayerWidth] = ()
    frozen: Sequence[FrozenGroup] = ()
    unreached: Sequence[str] = ()


def sections(result: CommandResult) -> Sections:
    """What there is to show of a result."""
    if isinstance(result, PruneResult):
        return Sections(
            comparison=comparison(result.before, result.after),
            exactness=exactness(result),
            outcome=timing(result.latency),
            certificate=result.certificate,
            argmax=has_argmax(result.run.recipe),
            widths=widths(result.layers),
            frozen=result.frozen,
            unreached=result.unreached,
        )
    if isinstance(result, BypassResult):
        return Sections(
            comparison=comparison(result.before, result.after),
            exactness=moves(result),
            candidates=candidates(result),
            outcome=outcome(result),
            signs=signs(result.diagnosis),
            evidence=result.diagnosis.verdict,
            widths=widths(result.layers),
        )
    if isinstance(result, TrainResult):
        return Sections(metrics=metrics(result.metrics, result.validation))
    if isinstance(result, EvaluateResult):
        return Sections(metrics=metrics(result.metrics))
    if isinstance(result, InspectResult):
        found = result.diagnosis
        return Sections(
            layers=result.layers,
            groups=result.groups,
            signs=signs(found) if found is not None else (),
            evidence=found.verdict if found is not None else "",
            unreached=result.unreached,
        )
    if isinstance(result, ExportResult):
        return Sections(
            differences=gaps(result), files=files(result), exactness=takes(result), outcome=exported(result)
        )
    if isinstance(result, CompareResult):
        return Sections(files=compared(result))
    if isinstance(result, SweepResult):
        return Sections(files=sweep_rows(result), exactness=sweep_outcome(result))
    if isinstance(result, Refused):
        return Sections(outcome=f"exit code 4: {result.message}")
    return Sections(differences=gaps(result), exactness=certified(result))


def comparison(before: ModelStats, after: ModelStats) -> list[Row]:
    """(what, before, after, change) for sizes, latencies and metrics."""
    costs = (
        ("parameters", before.size.params, after.size.params, ""),
        ("MACs", before.size.macs, after.size.macs, ""),
        ("size", before.size.bytes, after.size.bytes, "B"),
    )
    rows: list[Row] = [(name, count(old, unit), count(new, unit), factor(old, new)) for name, old, new, unit in costs]
    for batch, new in (after.latency or {}).items():
        old = (before.latency or {})[batch]
        rows.append((f"latency, batch {batch}", duration(old), duration(new), factor(old, new, ("faster", "slower"))))
    for name, value in before.metrics.items():
        now = after.metrics[name]
        rows.append((name, figure(name, value), figure(name, now), change(name, value, now)))
    return rows


def metrics(found: Metrics, validation: Metrics | None = None) -> list[Row]:
    """(metric, value) of a command that measures, with the validation figure between them where there is one."""
    return [
        (name, figure(name, validation[name]), figure(name, value))
        if validation and name in validation
        else (name, figure(name, value))
        for name, value in found.items()
    ]


def candidates(result: BypassResult) -> list[Row]:
    """Each branch of a bypass: its name, its validation loss, and the gain over going on as long."""
    base = result.validation.get("baseline")
    return [
        (
            name + (" (the best)" if name == result.verdict else ""),
            figure("loss", loss) + _calibrated(result, name),
            percent(1 - loss / base) if base and name != "baseline" else "",
        )
        for name, loss in result.validation.items()
    ]


def _calibrated(result: BypassResult, name: str) -> str:
    found = (result.calibrated or {}).get(name)
    return f" ({figure('loss', found.loss)} at T {found.temperature:.2f})" if found is not None else ""


def outcome(result: BypassResult) -> str:
    """Which branch of a bypass was kept, in one sentence."""
    if result.verdict == NO_GAIN:
        return "no gain was to be expected: the model is as it was"
    base, best = result.validation.get("baseline"), result.validation[result.verdict]
    gain = f", {percent(1 - best / base)} less loss than going on" if base and result.verdict != "baseline" else ""
    return f"the best on the validation data: {result.verdict}{gain}"


def exactness(result: PruneResult) -> list[str]:
    """What was measured at the removal, a sentence each."""
    removal, double, after = result.removal, result.certificate.double, result.after.metrics
    sentences = [
        f"{removal.filters} of {removal.prunable} filters removed: {percent(removal.ratio)}"
        + (f", asked for {percent(removal.requested_ratio)}" if removal.requested_ratio is not None else "")
    ]
    if removal.target is not None:
        aim, unit = removal.target, "B" if removal.target.quantity == "size" else ""
        reached, budget = (
            duration(value) if aim.quantity == "latency" else count(value, unit) for value in (aim.reached, aim.budget)
        )
        sentences.append(f"{aim.quantity} {aim.asked} asked for: {reached} left, {budget} may be")
    main = judge(after)
    if main is not None:
        moments = (removal.metrics_before_removal, removal.metrics_after_removal, after)
        shown = [figure(main, moment[main]) for moment in moments]
        trained = result.history is None or any(phase.phase == "finetune" for phase in result.history.phases)
        sentences.append(
            f"{main}: {shown[0]} right before removal, {shown[1]} right after"
            + (f", {shown[2]} after fine-tuning" if trained else "; nothing was fine-tuned")
        )
    sentences.append(
        f"outputs moved by at most {removal.relative_difference:.1e} of the largest at removal"
        + (f" ({double.relative:.1e} in float64)" if double else "")
        + (f"; arg-max agrees on {percent(removal.argmax_agreement)}" if has_argmax(result.run.recipe) else "")
    )
    if result.folder is not None:
        sentences.append(shares(result.folder))
    return sentences


def shares(folder: FolderFigures) -> str:
    """What it costs that a configuration says all widths, in one sentence."""
    return (
        f"{percent(folder.uniform_share)} of the parameters are in channels that can go where the configuration says "
        f"all widths, {percent(folder.free_share)} where each layer has its own"
    )


def timing(latency: Sequence[LatencyFigures] | None) -> str:
    """On what latency was measured, and how sure it is, in one sentence; empty: it was not."""
    if not latency:
        return ""
    first = latency[0]
    ratios = (
        f"{one.ratio.median:.3f} ({one.ratio.low:.3f} to {one.ratio.high:.3f}) with batches of {one.batch_size}"
        for one in latency
    )
    threads = f"{first.threads} thread{'s' * (first.threads > 1)}"
    return f"latency as a share of the original, in {first.runtime} on {first.device}, {threads}: {', '.join(ratios)}"


def gate_rows(result: CommandResult) -> list[Row]:
    """(gate, passed or failed, what was measured) of the limits that the user set."""
    return [(gate.name, "passed" if gate.passed else "FAILED", gate.message) for gate in result.gates or ()]


def signs(found: Diagnosis) -> list[Row]:
    """(sign, what was found, what that says): whether a model is stalled, and what would help."""
    return [(row.sign, row.found, row.says) for row in found.signs]


def moves(result: BypassResult) -> list[str]:
    """By how much outputs moved at embedding and contracting each branch of a bypass, a sentence each."""
    return [_moved(name, found) for name, found in result.certificate.items()]


def _moved(branch: str, found: BranchCertificate) -> str:
    if found.reason is not None:
        return f"{branch} gave no model: {found.reason}"
    moments = (
        ("embedding" if found.preserves is None else "shrinking", found.embed_difference),
        ("mirroring", found.mirror_difference),
        ("projecting", found.projection_difference),
        ("contracting", found.difference_after_contraction),
        ("averaging", found.averaging_difference),
    )
    if found.redrawn is not None:
        return f"{branch}: preserves no output; {found.redrawn} layers began anew near the identity"
    shown = ", ".join(f"{gap:.1e} at {moment}" for moment, gap in moments if gap is not None)
    again = f"; {found.restarts} restarts" if found.restarts else ""
    kept = "" if found.preserves is None else "preserves no output; "
    return f"{branch}: {kept}outputs moved by {shown}, of the largest{again}"


ARGMAX = ("classification", "causal_lm", "masked_lm")
"""Tasks whose answer is the largest number along the outputs' last dimension."""
INPUTS = {
    "random": "random inputs, float32",
    "double": "random inputs, float64",
    "evaluation": "real inputs, float32",
    "tensors": "tensors as read back",
}
"""On what outputs were compared."""


def gaps(result: VerifyResult | ExportResult) -> list[Row]:
    """A heading, then a row for each kind of inputs; arg-max where it is what the outputs are used for."""
    if isinstance(result, VerifyResult):
        argmax = result.task in ARGMAX
    else:
        argmax = not result.before.metrics or "accuracy" in result.before.metrics
    head = ("outputs of the two", "largest difference", "of the largest output", "arg-max agrees", "samples")
    rows = [head, *(_gap(INPUTS[key], gap) for key, gap in result.differences.items() if gap is not None)]
    return rows if argmax else [(*row[:3], *row[4:]) for row in rows]


def has_argmax(recipe: Mapping[str, object]) -> bool:
    """Is the largest output of a sample what a model of this recipe is used for?"""
    return recipe.get("task", "classification") in ARGMAX


def certified(result: VerifyResult) -> list[str]:
    """What the certificate of the second checkpoint is of; nothing where it carries none."""
    if result.certificate is None:
        return []
    same = result.certificate == THESE_WEIGHTS
    return [
        f"{result.other} was {'not changed' if same else 'trained on'} since the removal that it has a certificate of"
    ]


def files(result: ExportResult) -> list[Row]:
    """(what runs by what, size, latency..., metrics...) of the checkpoint, the exported file and its int8 form."""
    every = [("checkpoint", result.before), (result.format, result.after)]
    every += [("int8", result.quantized)] if result.quantized is not None else []
    batches, names = result.after.latency, list(result.before.metrics)
    rows: list[Row] = [("", "size", *(f"batch {batch}" for batch in batches), *names)]
    for what, file in every:
        latency = [duration(file.latency[batch]) if batch in file.latency else "-" for batch in batches]
        metrics = [figure(name, file.metrics[name]) for name in names]
        rows.append((f"{what}, {file.runtime}", count(file.bytes, "B"), *latency, *metrics))
    return rows


def takes(result: ExportResult) -> list[str]:
    """What an exported file is given, a sentence each."""
    return [f"input {given.name}: {' x '.join(given.shape)} of {given.dtype}" for given in result.inputs]


def exported(result: ExportResult) -> str:
    """That an exported file does what the checkpoint does, in one sentence."""
    worst = max(gap.relative for gap in result.differences.values() if gap is not None)
    return f"run by {result.after.runtime} without extcon: within {worst:.1e} of the largest output"


def _gap(inputs: str, gap: OutputDifference) -> Row:
    return inputs, f"{gap.largest:.1e}", f"{gap.relative:.1e}", percent(gap.agreement), str(gap.samples)


def widths(layers: Sequence[LayerWidth]) -> list[LayerWidth]:
    """The layers that have a width of their own: normalisation follows the layer before it."""
    return [layer for layer in layers if layer.before is not None and "Norm" not in layer.kind]


def run_facts(result: CommandResult) -> RunFacts | None:
    """What the result says of its run; None: a command that only measures."""
    return result.run if isinstance(result, PruneResult | BypassResult | TrainResult) else None


def caution(result: CommandResult) -> str | None:
    """What speaks against the test figures; None: nothing."""
    run = run_facts(result)
    if isinstance(result, CompareResult):
        return result.test_caution
    return result.test_caution if isinstance(result, EvaluateResult) else run.test_caution if run is not None else None


def subject(result: CommandResult) -> str:
    """What the command worked on, or, where it began with nothing, what it wrote."""
    if isinstance(result, PruneResult | BypassResult | TrainResult):
        return result.run.checkpoint or result.run.output
    return ", ".join(file.path for file in result.files) if isinstance(result, CompareResult) else result.checkpoint
