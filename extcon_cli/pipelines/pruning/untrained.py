"""The result of a pruning that trains nothing: of zeros that were there, or without data. It removes nothing itself."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from extcon_cli.channels import Channels
from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.deferred import is_deferred
from extcon_cli.events import Emit
from extcon_cli.pipelines.running.measure import timed
from extcon_cli.pipelines.running.open import Opened
from extcon_cli.pipelines.running.output import frozen, widths
from extcon_cli.recipe.load import to_dict
from extcon_cli.report.results.prune import FolderFigures, PruneRecord, PruneResult
from extcon_cli.report.results.records import RunFacts


def untrained_result(
    checkpoint: Path,
    output: Path,
    opened: Opened,
    small: nn.Module,  # what is left of the module that was opened
    channels: Channels,
    record: PruneRecord,
    folder: FolderFigures | None,
    example: Inputs,
    *,
    began: float,  # by time.monotonic()
    latency: bool,
    emit: Emit,
) -> PruneResult:
    """The record of the removal with what there is to say beside it."""
    measured = latency and not is_deferred(small)  # to read the weights would be most of it
    spec = opened.recipe.prune.latency if measured else None
    before, after, times = timed(record.before, record.after, (opened.module, small), example, spec, emit=emit)
    return PruneResult(
        before=before,
        after=after,
        removal=record.removal,
        certificate=record.certificate,
        layers=widths(opened.module, small),
        frozen=frozen(channels),
        unreached=channels.unreached,
        latency=times,
        folder=folder,
        run=RunFacts(
            checkpoint=str(checkpoint),
            output=str(output),
            recipe=to_dict(opened.recipe),
            seed=opened.recipe.seed,
            device="cpu",
            threads=torch.get_num_threads(),
            seconds={"total": time.monotonic() - began},
            test_caution=None,
        ),
    )
