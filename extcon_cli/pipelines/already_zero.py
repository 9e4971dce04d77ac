"""`extcon prune --already-zero`: remove what is dead in a checkpoint already. No data, no training."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from extcon_cli.channels import RemovalPlan, channel_groups, difference, remove_zeros
from extcon_cli.channels.compare import EXACT, random_batches
from extcon_cli.checkpoint.folder import check_folder, is_transformers
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.write import Metadata, check_writable, write
from extcon_cli.errors import GateError
from extcon_cli.events import Emit, RunStarted, Saved, ignore, phase
from extcon_cli.pipelines.pruning.folders import folder_widths, write_pruned
from extcon_cli.pipelines.pruning.removal import certificate_record, figures
from extcon_cli.pipelines.pruning.untrained import untrained_result
from extcon_cli.pipelines.running.open import Opened, open_model
from extcon_cli.pipelines.running.output import metadata
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import measure
from extcon_cli.report.results.prune import PruneRecord, PruneResult
from extcon_cli.report.results.records import ModelStats


def already_zero(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    tolerance: float = 0.0,
    latency: bool = True,
    force: bool = False,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> PruneResult:
    """Remove every channel that emits a constant whatever the input, and write the smaller checkpoint.

    Args:
        recipe: only `model` counts.
        tolerance: slices of a parameter whose largest absolute value is at most this count as zero.
        output, latency, force, trust: as in `prune`.

    Raises: GateError where nothing is dead or the outputs would change; then nothing is written.
    """
    began = time.monotonic()
    if is_transformers(checkpoint):
        check_folder(output, force=force, like=checkpoint)
    else:
        check_writable(output, force)
    emit(RunStarted("prune", str(checkpoint), str(output), "cpu", recipe.seed))
    with phase(emit, "open", "Opening"):
        opened = open_model(checkpoint, recipe, trust=trust, sparing=True, emit=emit)
    original, precision = opened.module, opened.precision
    example = next(random_batches(opened.example, sizes=(2,), seed=recipe.seed))
    examples = [example, *opened.examples[1:]]
    with phase(emit, "groups", "Finding groups"):
        zeroed = original if tolerance == 0 else _rounded_to_zero(original, tolerance)
        channels = channel_groups(zeroed, examples, ignore_unreached=recipe.model.ignore_unreached)
    with phase(emit, "remove", "Removing"):
        removal = remove_zeros(zeroed, examples, channels=channels)
        small, moved = removal.module, removal.certificate.random
        if zeroed is not original:
            moved = difference(original, small, random_batches(example))
        if moved.relative > EXACT:
            raise GateError(f"outputs would change by {moved.relative:.1e} of the largest: lower --tolerance")
    with phase(emit, "write", "Writing"):
        record = PruneRecord(
            before=ModelStats({}, measure(original, example, precision)),
            after=ModelStats({}, measure(small, example, precision)),
            removal=figures(removal, moved),
            certificate=certificate_record(removal.certificate),
        )
        described, folder = _metadata(opened, record, removal.plan), None
        if opened.folder is None:
            write(output, small, described, force=force, precision=precision)
        else:
            _, said = folder_widths(opened.folder, zeroed, channels, examples, recipe.prune.widths, emit)
            plan = removal.plan.to_json()
            folder = write_pruned(output, small, said, record, described, plan, examples, force=force)
    emit(Saved(str(output)))
    return untrained_result(
        checkpoint, output, opened, small, channels, record, folder, example, began=began, latency=latency, emit=emit
    )


def _metadata(opened: Opened, record: PruneRecord, plan: RemovalPlan) -> Metadata:
    """What the smaller checkpoint says of itself: what the one before said, and this removal."""
    before = opened.checkpoint.metadata
    return metadata(
        opened.recipe,
        before,
        record,
        plan=plan.to_json(),
        classes=before.classes if before is not None else None,
        normalize=before.normalize if before is not None else None,
    )


@torch.no_grad()
def _rounded_to_zero(module: nn.Module, tolerance: float) -> nn.Module:
    """A copy with zeros in rows of weights, and entries of vectors, in which nothing is larger than the tolerance."""
    rounded = copy.deepcopy(module)
    for parameter in rounded.parameters():
        largest: Tensor = parameter.abs().flatten(1).amax(1) if parameter.dim() > 1 else parameter.abs()
        parameter[largest <= tolerance] = 0
    return rounded
