"""`extcon prune --already-zero`: remove what is dead in a checkpoint already. No data, no training."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli import __version__
from extcon_cli.channels import channel_groups, difference
from extcon_cli.channels.compare import EXACT, random_batches
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.write import check_writable, write
from extcon_cli.errors import GateError
from extcon_cli.events import Emit, PhaseEnded, PhaseStarted, RunStarted, Saved, ignore
from extcon_cli.pipelines.open import open_model
from extcon_cli.pipelines.output import SCHEMA, metadata, widths
from extcon_cli.pipelines.removal import cut
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import latency, measure


def already_zero(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    tolerance: float = 0.0,
    force: bool = False,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> dict[str, Any]:
    """Cut every channel that emits a constant whatever the input, and write the smaller checkpoint.

    Args:
        recipe: only `model` counts.
        tolerance: slices of a parameter whose largest absolute value is at most this count as zero.
        output, force, trust: as in `prune`.

    Raises: GateError where nothing is dead or the outputs would change; then nothing is written.
    """
    began = time.monotonic()
    check_writable(output, force)
    opened = open_model(checkpoint, recipe, trust=trust)
    emit(RunStarted("prune", str(checkpoint), str(output), "cpu", recipe.seed))
    emit(PhaseStarted("remove", "Removing", None, "channel"))
    original, shape = opened.module, opened.arch.input_shape or ()
    zeroed = copy.deepcopy(original)
    _round_to_zero(zeroed, tolerance)
    example = (torch.randn(2, *shape, generator=torch.Generator().manual_seed(recipe.seed)),)
    channels = channel_groups(zeroed, example)
    removal = cut(zeroed, channels, example)
    small = removal.module
    moved = difference(original, small, random_batches(example))
    if moved.relative > EXACT:
        raise GateError(f"outputs would change by {moved.relative:.1e} of the largest: lower --tolerance")
    emit(PhaseEnded("remove", time.monotonic() - began))
    figures = [
        {"metrics": {}, "params": size.params, "macs": size.macs, "bytes": size.bytes}
        for size in (measure(original, shape), measure(small, shape))
    ]
    done: dict[str, Any] = {
        "command": "prune",
        "version": __version__,
        "before": figures[0],
        "after": figures[1],
        "removal": removal.figures(moved),
        "certificate": removal.certificate.to_json(),
    }
    before = opened.checkpoint.metadata
    told = metadata(
        opened.recipe,
        before,
        done,
        plan=removal.plan.to_json(),
        classes=before.classes if before is not None else None,
        normalize=before.normalize if before is not None else None,
    )
    write(output, small, told, force=force)
    emit(Saved(str(output)))
    for size, of in zip(figures, (original, small), strict=True):
        size["latency"] = {str(n): latency(of, shape, n) for n in (1, 64)}
    return {
        "schema": SCHEMA,
        **done,
        "checkpoint": str(checkpoint),
        "output": str(output),
        "recipe": to_dict(opened.recipe),
        "seed": recipe.seed,
        "device": "cpu",
        "layers": widths(original, small, shape),
        "frozen": [{"group": g.name, "reason": g.reason} for g in channels.groups if not g.prunable],
        "seconds": {"total": time.monotonic() - began},
    }


@torch.no_grad()
def _round_to_zero(module: nn.Module, tolerance: float) -> None:
    """Set rows of weights, and entries of vectors, to zero where nothing in them is larger than the tolerance."""
    for parameter in module.parameters():
        largest: Tensor = parameter.abs().flatten(1).amax(1) if parameter.dim() > 1 else parameter.abs()
        parameter[largest <= tolerance] = 0
