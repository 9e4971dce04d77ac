"""`extcon prune FOLDER` without data: the smallest filters go at once, and nothing is trained.

The outputs change, since living filters go. What is exact is the removal of what was set to zero, and the folder.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch

from extcon_cli.catalyst import scores
from extcon_cli.catalyst.filters import Filters, scale
from extcon_cli.channels import channel_groups, remove_zeros
from extcon_cli.checkpoint.folder import check_folder
from extcon_cli.checkpoint.precision import round_to
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.errors import GateError
from extcon_cli.events import Emit, Noted, RunStarted, Saved, ignore, phase
from extcon_cli.pipelines.pruning.budget import Budget
from extcon_cli.pipelines.pruning.folders import folder_widths, write_pruned
from extcon_cli.pipelines.pruning.keep import check_patterns
from extcon_cli.pipelines.pruning.removal import certificate_record, figures
from extcon_cli.pipelines.pruning.scoring import choose
from extcon_cli.pipelines.pruning.untrained import untrained_result
from extcon_cli.pipelines.running.open import open_model
from extcon_cli.pipelines.running.output import metadata
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import measure
from extcon_cli.report.records import ModelStats
from extcon_cli.report.results import PruneRecord, PruneResult


def prune_at_once(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    latency: bool = True,
    force: bool = False,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> PruneResult:
    """Prune a folder of transformers by the norms of its filters, and write the smaller one.

    Args:
        recipe: `ratio` or `target`, `widths` and `decide` of `prune` count, and `score` where it is `random`.
        output: a folder.
        latency, force, trust: as in `prune`.

    Raises: GateError where the removal is not exact, the target is missed or the configuration cannot say the widths;
    then nothing is written.
    """
    began, spec = time.monotonic(), recipe.prune
    check_folder(output, force=force, like=checkpoint)
    opened = open_model(checkpoint, recipe, trust=trust, sparing=True, emit=emit)
    assert opened.folder is not None
    emit(RunStarted("prune", str(checkpoint), str(output), "cpu", recipe.seed))
    method = "random" if spec.score.method == "random" else "magnitude"
    spec = spec.model_copy(update={"score": spec.score.model_copy(update={"method": method})})
    emit(Noted(f"no data: filters are chosen by {method} and removed at once, nothing is trained", warning=True))
    original, examples, precision = opened.module, opened.examples, opened.folder.precision
    example = examples[0]
    with phase(emit, "remove", "Removing", unit="channel"):
        channels = channel_groups(original, examples, ignore_unreached=recipe.model.ignore_unreached)
        channels, alike = folder_widths(opened.folder, original, channels, examples, spec.widths, emit)
        check_patterns(spec.decide, [group.name for group in channels.groups])
        filters = Filters.of(channels.groups)
        if not len(filters):
            reasons = sorted({group.reason for group in channels.groups})
            raise GateError(f"no filter of this model can be pruned: {'; '.join(reasons)}")
        zeroed = copy.deepcopy(original)
        worth = scores.random_scores(filters, recipe.seed) if method == "random" else scores.magnitude(zeroed, filters)
        before = measure(original, example, precision)
        selected = choose(worth, filters, spec, original, channels, before, example, precision, alike.ties)
        scale(zeroed, filters, torch.where(selected, 0.0, 1.0))
        removal = remove_zeros(
            zeroed, examples, channels=channels, decided=filters.masks(selected), others=not alike.ties
        )
        small = removal.module
        round_to(small, precision)
    after = measure(small, example, precision)
    record = PruneRecord(
        before=ModelStats({}, before),
        after=ModelStats({}, after),
        removal=figures(
            removal,
            removal.certificate.random,
            requested=spec.ratio,
            target=Budget.of(spec.target, before).figures(after) if spec.target is not None else None,
        ),
        certificate=certificate_record(removal.certificate),
    )
    plan = removal.plan.to_json()
    described = metadata(opened.recipe, opened.folder.metadata, record, plan=plan)
    folder = write_pruned(output, small, alike, record, described, plan, examples, force=force)
    emit(Saved(str(output)))
    return untrained_result(
        checkpoint, output, opened, small, channels, record, folder, example, began=began, latency=latency, emit=emit
    )
