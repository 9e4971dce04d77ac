"""Figures of a module: on one split of a run's data, refused where they are no numbers, and its latency."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import torch
from torch import nn

from extcon_cli.channels import Difference
from extcon_cli.channels.compare import Inputs
from extcon_cli.errors import GateError, TraceError
from extcon_cli.events import Emit, Noted, Progress, ignore, phase
from extcon_cli.latency import clock
from extcon_cli.latency.clock import take_turns
from extcon_cli.latency.runtimes import Setting, running
from extcon_cli.pipelines.running.phase import interruptible
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.processes import ALONE, Processes
from extcon_cli.recipe.schema import LatencySpec
from extcon_cli.report.results.records import LatencyFigures, Metrics, ModelStats, OutputDifference, Spread
from extcon_cli.training.device import Accelerator
from extcon_cli.training.interrupt import Stop
from extcon_cli.training.objective import evaluate, evaluate_beside, own_part


def measured(
    module: nn.Module,
    prepared: Prepared,
    split: str,
    accelerator: Accelerator,
    stop: Stop,
    processes: Processes = ALONE,
) -> Metrics | None:
    """Figures of the module on a split; None where the split is empty. GateError where they are not finite."""
    data = prepared.data
    if split == "validation" and not len(data.validation):
        return None
    loader = data.eval_loader(split, device=accelerator.device)
    own = interruptible(own_part(loader, prepared.task, processes), stop)
    return _finite(evaluate(module, own, prepared.task, processes), split)


def measured_beside(
    modules: tuple[nn.Module, nn.Module], prepared: Prepared, split: str, accelerator: Accelerator, stop: Stop
) -> tuple[Metrics, Metrics, Difference]:
    """Figures of two modules on a split, and how far their outputs are apart, in one pass over both."""
    loader = prepared.data.eval_loader(split, device=accelerator.device)
    first, second, gap = evaluate_beside(*modules, interruptible(iter(loader), stop), prepared.task)
    return _finite(first, split), _finite(second, split), gap


def _finite(metrics: Metrics, split: str) -> Metrics:
    if not all(math.isfinite(value) for value in metrics.values()):
        raise GateError(f"the model's outputs on the {split} data are not finite (NaN or infinity)")
    return metrics


BATCHES = (1, 64)
"""Batch sizes at which latency is measured."""


def timed(
    before: ModelStats,
    after: ModelStats,
    modules: tuple[nn.Module, nn.Module],  # before and after
    example: Inputs,
    spec: LatencySpec | None,  # None: nothing is timed
    *,
    device: str = "cpu",
    emit: Emit = ignore,
) -> tuple[ModelStats, ModelStats, tuple[LatencyFigures, ...] | None]:
    """The same with the latency of the two modules, and all that there is to say of it.

    Where the runtime does not take a module, nothing is measured, and a note says why.
    """
    if spec is None:
        return before, after, None
    sizes = (spec.batch_size,) if spec.batch_size else BATCHES if spec.runtime == "torch" else BATCHES[:1]
    found = list[LatencyFigures]()
    with phase(emit, "latency", f"Measuring latency in {spec.runtime}", len(sizes), "batch size"):
        try:
            for number, size in enumerate(sizes):
                found.append(latency(modules, example, setting(spec, size, device), spec.seconds))
                emit(Progress("latency", number + 1))
        except TraceError as error:
            emit(Noted(f"latency is not measured: {error}", warning=True))
            return before, after, None
    earlier = replace(before, latency={str(one.batch_size): one.before.median for one in found})
    return earlier, replace(after, latency={str(one.batch_size): one.after.median for one in found}), tuple(found)


def setting(spec: LatencySpec, batch_size: int, device: str = "cpu") -> Setting:
    """What the recipe says of latency, with the threads that torch computes with now."""
    own = device if spec.runtime in ("torch", "torch.compile") else "cpu"
    return Setting(spec.runtime, batch_size, torch.get_num_threads(), own)


def latency(modules: tuple[nn.Module, nn.Module], example: Inputs, setting: Setting, seconds: float) -> LatencyFigures:
    """Two modules measured in turns. TraceError: the runtime does not take one of them."""
    first, second = modules
    with running(first, example, setting) as one, running(second, example, setting) as other:
        times = take_turns([one, other], seconds=seconds, clock=setting.clock)
    return LatencyFigures(
        runtime=setting.software,
        device=setting.hardware,
        threads=setting.threads,
        batch_size=setting.batch_size,
        before=_spread(times.of(0)),
        after=_spread(times.of(1)),
        ratio=_spread(times.ratio(1, 0)),
    )


def _spread(found: clock.Spread) -> Spread:
    return Spread(found.median, found.low, found.high)


def output_difference(gap: Difference) -> OutputDifference:
    """A measured difference as a result says it."""
    return OutputDifference(relative=gap.relative, **asdict(gap))
