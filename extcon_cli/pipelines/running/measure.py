"""Figures of a module: on one split of a run's data, refused where they are no numbers, and its latency."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

from torch import nn

from extcon_cli.channels import Difference
from extcon_cli.channels.compare import Inputs
from extcon_cli.errors import GateError
from extcon_cli.events import Emit, ignore, phase
from extcon_cli.pipelines.running.phase import interruptible
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.report.measure import latency
from extcon_cli.report.records import Metrics, ModelStats, OutputDifference
from extcon_cli.training.device import Accelerator
from extcon_cli.training.interrupt import Stop
from extcon_cli.training.objective import evaluate


def measured(module: nn.Module, prepared: Prepared, split: str, accelerator: Accelerator, stop: Stop) -> Metrics | None:
    """Figures of the module on a split; None where the split is empty. GateError where they are not finite."""
    data = prepared.data
    if split == "validation" and not len(data.validation):
        return None
    loader = data.eval_loader(split, device=accelerator.device)
    metrics = evaluate(module, interruptible(iter(loader), stop), prepared.task)
    if not all(math.isfinite(value) for value in metrics.values()):
        raise GateError(f"the model's outputs on the {split} data are not finite (NaN or infinity)")
    return metrics


BATCHES = (1, 64)
"""Batch sizes at which latency is measured."""


def timed(
    before: ModelStats,
    after: ModelStats,
    modules: tuple[nn.Module, nn.Module],  # before and after, measured where they are
    example: Inputs,
    *,
    wanted: bool = True,
    emit: Emit = ignore,
) -> tuple[ModelStats, ModelStats]:
    """The same with the latency of the two modules, where it is wanted."""
    if not wanted:
        return before, after
    with phase(emit, "latency", "Measuring latency"):
        found = [{str(batch): latency(module, example, batch) for batch in BATCHES} for module in modules]
    return replace(before, latency=found[0]), replace(after, latency=found[1])


def output_difference(gap: Difference) -> OutputDifference:
    """A measured difference as a result says it."""
    return OutputDifference(relative=gap.relative, **asdict(gap))
