"""The fourth phase of pruning: remove what is dead, measured on the test data and on random inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from extcon_cli import channels
from extcon_cli.channels import Certificate, Difference, Removal, RemovalPlan
from extcon_cli.pipelines.pruning.bifurcate import Shrunk
from extcon_cli.pipelines.pruning.budget import target_figures
from extcon_cli.pipelines.pruning.prune_run import PruneRun, RemovalRecord
from extcon_cli.pipelines.running.measure import measured_beside
from extcon_cli.pipelines.running.phase import interruptible
from extcon_cli.report.measure import measure
from extcon_cli.report.results.prune import RemovalFigures, TargetFigures
from extcon_cli.report.results.records import CertificateRecord, Metrics, ModelStats
from extcon_cli.report.serialise import from_json


@dataclass(frozen=True)
class Removed:
    """The smaller module, and what is known of how it came to be."""

    module: nn.Module
    record: RemovalRecord


def remove(pruning: PruneRun, shrunk: Shrunk, before: ModelStats, *, planned: bool = False) -> Removed:
    """Remove every selected filter, and what else is dead; GateError where one cannot go or an output would change.

    Of several processes the first one removes and measures; the others repeat its plan.

    `planned`: the filters are a plan's, and neither the recipe's ratio nor its target is asked for.
    """
    run = pruning.run
    pruning.module.eval()
    with run.phase("remove", "Removing") as closing:
        measure_both = _in_parts if run.processes.several else _in_one_pass
        small, metrics, after = measure_both(pruning, shrunk, before, planned)
        closing.update(after)
    record = small.record
    figures = replace(record.figures, metrics_before_removal=metrics, metrics_after_removal=dict(closing))
    return replace(small, record=replace(record, figures=figures))


def _in_one_pass(
    pruning: PruneRun, shrunk: Shrunk, before: ModelStats, planned: bool
) -> tuple[Removed, Metrics, Metrics]:
    """What is removed, and the figures before and after: one pass over the test data, which compares as well."""
    run, removal = pruning.run, _certified(pruning, shrunk, evaluated=False)
    both = (pruning.module, removal.module)
    metrics, after, gap = measured_beside(both, run.prepared, "test", run.accelerator, run.stop)
    removal = removal.with_evaluation(gap)
    record = _record(pruning, shrunk, before, removal, planned=planned)
    return Removed(removal.module, record), metrics, after


def _in_parts(pruning: PruneRun, shrunk: Shrunk, before: ModelStats, planned: bool) -> tuple[Removed, Metrics, Metrics]:
    """The same in several processes, each of which measures its part of the data."""
    run = pruning.run
    removed: list[Removal] = []

    def cut() -> RemovalRecord:
        removed.append(_certified(pruning, shrunk, evaluated=True))
        return _record(pruning, shrunk, before, removed[0], planned=planned)

    metrics = run.metrics(pruning.module)
    record = run.processes.once(cut)
    small = Removed(removed[0].module, record) if removed else repeat(pruning, record)
    run.processes.align(small.module)
    return small, metrics, run.metrics(small.module)


def _certified(pruning: PruneRun, shrunk: Shrunk, *, evaluated: bool) -> Removal:
    """The removal with its certificate; `evaluated`: compared on the test data too."""
    run = pruning.run
    test = interruptible(iter(run.prepared.data.eval_loader("test", device=run.device)), run.stop)
    real = (run.prepared.task.arguments(inputs) for inputs, _ in test)
    return channels.remove_zeros(
        pruning.module,
        pruning.examples,
        channels=pruning.channels,
        decided=pruning.filters.masks(shrunk.selected),
        others=not pruning.ties,  # what else is dead may not be alike in all layers
        evaluation=real if evaluated else (),
    )


def _record(pruning: PruneRun, shrunk: Shrunk, before: ModelStats, removal: Removal, *, planned: bool) -> RemovalRecord:
    """What is known of a removal, but for the figures on the data."""
    prepared, certificate = pruning.run.prepared, removal.certificate
    target = None
    if not planned:
        size = measure(removal.module, prepared.example, prepared.precision)
        models, sizes = (pruning.original, removal.module), (before.size, size)
        target = target_figures(pruning.spec, models, sizes, prepared.example, device=str(pruning.run.device))
    return RemovalRecord(
        before=before,
        figures=figures(
            removal,
            certificate.evaluation or certificate.random,
            requested=pruning.spec.ratio if not planned else None,
            target=target,
        ),
        certificate=certificate_record(certificate),
        plan=removal.plan.to_json(),
        phases=shrunk.phases,
        trace=shrunk.trace,
    )


def repeat(pruning: PruneRun, record: RemovalRecord) -> Removed:
    """The removal of a run that was interrupted after it: the same shapes, for the weights that were kept."""
    channels.remove(pruning.module, RemovalPlan.from_json(dict(record.plan)))
    return Removed(pruning.module, record)


def figures(
    removal: Removal,
    moved: Difference,  # outputs right before and right after, on what counts most
    *,
    requested: float | None = None,
    before: Metrics | None = None,
    after: Metrics | None = None,
    target: TargetFigures | None = None,
) -> RemovalFigures:
    """What the result says of a removal; `before` and `after` are figures around it."""
    return RemovalFigures(
        requested_ratio=requested,
        ratio=removal.filters / removal.prunable,
        filters=removal.filters,
        prunable=removal.prunable,
        removable_share=removal.share,
        metrics_before_removal=before or {},
        metrics_after_removal=after or {},
        max_difference=moved.largest,
        largest_output=moved.scale,
        relative_difference=max(moved.relative, removal.certificate.random.relative),
        argmax_agreement=moved.agreement,
        target=target,
    )


def certificate_record(certificate: Certificate) -> CertificateRecord:
    """The certificate as the result shows it."""
    return from_json(CertificateRecord, certificate.to_json())
