"""`extcon evaluate`: the figures of a checkpoint on one split of its data. Changes nothing."""

from __future__ import annotations

from pathlib import Path

from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.data import SPLITS
from extcon_cli.errors import DataError, Interrupted, UsageError
from extcon_cli.events import Emit, RunStarted, ignore, phase
from extcon_cli.pipelines.running.gates import accuracy_gate, enforce
from extcon_cli.pipelines.running.measure import measured
from extcon_cli.pipelines.running.prepare import prepare
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.train import EvaluateResult
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.interrupt import graceful


def evaluate(
    checkpoint: Path,
    recipe: Recipe,
    *,
    split: str = "test",
    min_accuracy: float | None = None,
    device: str | None = None,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> EvaluateResult:
    """The loss and the task's figures of the checkpoint on `test`, `validation` or `train`.

    GateError, which carries the result, where the accuracy is less than `min_accuracy`.
    """
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: should be one of {', '.join(SPLITS)}")
    accelerator = create_accelerator(device)
    prepared = prepare(recipe, checkpoint, trust=trust, emit=emit)
    emit(RunStarted("evaluate", str(checkpoint), None, str(accelerator.device), recipe.seed))
    with graceful() as stop, phase(emit, "evaluate", f"Measuring on the {split} data") as closing:
        try:
            metrics = measured(prepared.module.to(accelerator.device), prepared, split, accelerator, stop)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted; nothing was changed") from error
        if metrics is None:
            raise DataError(f"{prepared.data.spec.dataset}: the {split} split is empty (data.validation)")
        closing.update(metrics)
    gates = (accuracy_gate(metrics.get("accuracy"), min_accuracy),) if min_accuracy is not None else ()
    result = EvaluateResult(
        checkpoint=str(checkpoint),
        split=split,
        samples=len(prepared.data.split(split)),
        metrics=metrics,
        device=str(accelerator.device),
        test_caution=prepared.test_caution if split == "test" else None,
        gates=gates or None,
    )
    enforce(gates, result)
    return result
