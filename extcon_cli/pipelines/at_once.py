"""`extcon prune` without data: filters go at once, and nothing is trained.

With `prune.data: none` they are scored, and their work is handed over, on inputs made of the model itself. A folder of
transformers without data loses its smallest filters, and nothing is handed over. The outputs change, since living
filters go. What is exact is the removal of what was set to zero, and the file.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch
from torch import Tensor

from extcon_cli.catalyst import scores
from extcon_cli.catalyst.filters import Filters, scale
from extcon_cli.catalyst.saliency import compensated
from extcon_cli.channels import Channels, channel_groups, remove_zeros
from extcon_cli.channels.compare import Inputs
from extcon_cli.checkpoint.folder import check_folder, is_transformers
from extcon_cli.checkpoint.precision import round_to
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.write import check_writable, write
from extcon_cli.errors import GateError, TraceError, UsageError
from extcon_cli.events import Emit, Noted, RunStarted, Saved, ignore, phase
from extcon_cli.pipelines.pruning.bifurcate import fitting, hand_over_if_traced
from extcon_cli.pipelines.pruning.budget import target_figures
from extcon_cli.pipelines.pruning.folders import folder_widths, write_pruned
from extcon_cli.pipelines.pruning.keep import check_patterns
from extcon_cli.pipelines.pruning.made_inputs import made_inputs, samples
from extcon_cli.pipelines.pruning.removal import certificate_record, figures
from extcon_cli.pipelines.pruning.scoring import choose, compared_by, drawn_loss
from extcon_cli.pipelines.pruning.untrained import untrained_result
from extcon_cli.pipelines.running.open import Opened, open_model
from extcon_cli.pipelines.running.output import metadata
from extcon_cli.recipe.schema import PruneSpec, Recipe
from extcon_cli.report.measure import measure
from extcon_cli.report.results.prune import PruneRecord, PruneResult
from extcon_cli.report.results.records import ModelStats

WITHOUT_LABELS = ("compensated", "magnitude", "random")
"""Scores that no label is needed for."""


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
    """Prune without data, and write the smaller checkpoint.

    Args:
        recipe: `ratio` or `target`, `widths`, `data` and `decide` of `prune` count, and `score` and `compensate` where
            inputs are made; else `score` where it is `random`.
        output: a .safetensors file; for a folder of transformers a folder.
        latency, force, trust: as in `prune`.

    Raises: GateError where the removal is not exact, the target is missed or the configuration cannot say the widths;
    then nothing is written. UsageError where no inputs can be made.
    """
    began, spec = time.monotonic(), recipe.prune
    makes = spec.data == "none"
    if makes and spec.score.method not in WITHOUT_LABELS:
        raise UsageError(f"prune.data none: prune.score.method {spec.score.method} needs labels: choose compensated")
    if is_transformers(checkpoint):
        check_folder(output, force=force, like=checkpoint)
    else:
        check_writable(output, force)
    opened = open_model(checkpoint, recipe, trust=trust, sparing=not makes, emit=emit)
    emit(RunStarted("prune", str(checkpoint), str(output), "cpu", recipe.seed))
    if not makes:
        method = "random" if spec.score.method == "random" else "magnitude"
        spec = spec.model_copy(update={"score": spec.score.model_copy(update={"method": method})})
        emit(Noted(f"no data: filters are chosen by {method} and removed at once, nothing is trained", warning=True))
    wanted = max(spec.score.images, spec.compensate.images)
    made = made_inputs(opened, fitting(opened.example, wanted), emit=emit) if makes else []
    original, precision = opened.module, opened.precision
    examples = [samples(made, 2), *opened.examples[1:]] if made else opened.examples
    example = examples[0]
    with phase(emit, "remove", "Removing", unit="channel"):
        channels, alike = channel_groups(original, examples, ignore_unreached=recipe.model.ignore_unreached), None
        if opened.folder is not None:
            channels, alike = folder_widths(opened.folder, original, channels, examples, spec.widths, emit)
        check_patterns(spec.decide, [group.name for group in channels.groups])
        filters = Filters.of(channels.groups)
        if not len(filters):
            reasons = sorted({group.reason for group in channels.groups})
            raise GateError(f"no filter of this model can be pruned: {'; '.join(reasons)}")
        zeroed, ties = copy.deepcopy(original), alike.ties if alike is not None else []
        spec, worth = _worth(opened, spec, channels, filters, made, emit)
        before = measure(original, example, precision)
        selected = choose(worth, filters, spec, original, channels, before, example, precision, ties, emit=emit)
        scale(zeroed, filters, torch.where(selected, 0.0, 1.0))
        if made and spec.compensate.enabled:
            batches = [samples(made, fitting(example, spec.compensate.images))]
            hand_over_if_traced(zeroed, original, channels, filters, selected, batches, spec.compensate, emit)
        removal = remove_zeros(zeroed, examples, channels=channels, decided=filters.masks(selected), others=not ties)
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
            target=target_figures(spec, (original, small), (before, after), example),
        ),
        certificate=certificate_record(removal.certificate),
    )
    plan = removal.plan.to_json()
    said = opened.checkpoint.metadata
    described = metadata(
        opened.recipe,
        said,
        record,
        plan=plan,
        classes=said.classes if said is not None else None,
        normalize=said.normalize if said is not None else None,
    )
    folder = None
    if alike is not None:
        folder = write_pruned(output, small, alike, record, described, plan, examples, force=force)
    else:
        write(output, small, described, force=force, precision=precision)
    emit(Saved(str(output)))
    return untrained_result(
        checkpoint, output, opened, small, channels, record, folder, example, began=began, latency=latency, emit=emit
    )


def _worth(
    opened: Opened, spec: PruneSpec, channels: Channels, filters: Filters, made: list[Inputs], emit: Emit
) -> tuple[PruneSpec, Tensor]:
    """What each filter is worth (n,), and the recipe with the score that was taken."""
    module = opened.module
    if spec.score.method == "random":
        return spec, scores.random_scores(filters, opened.recipe.seed)
    if spec.score.method == "compensated":
        try:
            generator = torch.Generator().manual_seed(opened.recipe.seed)
            loss = drawn_loss(module, samples(made, 2), opened.recipe.task, generator)
            compare = compared_by(spec.score, opened.recipe.task)
            return spec, compensated(module, channels, filters, made, loss, compare=compare)
        except TraceError as error:
            emit(Noted(f"{error}; filters are chosen by their magnitude instead", warning=True))
            spec = spec.model_copy(update={"score": spec.score.model_copy(update={"method": "magnitude"})})
    return spec, scores.magnitude(module, filters)
