"""`extcon plan`: what `prune` would take, what that would leave, and how much each layer matters. Trains nothing."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from extcon_cli.channels import zero_channels
from extcon_cli.channels.deferred import is_deferred
from extcon_cli.channels.modules import evaluating
from extcon_cli.channels.preserving import duplicate
from extcon_cli.checkpoint.folder import is_transformers
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.errors import UsageError
from extcon_cli.events import Emit, Event, Progress, RunStarted, ignore
from extcon_cli.pipelines.pruning.budget import without
from extcon_cli.pipelines.pruning.keep import check_patterns
from extcon_cli.pipelines.pruning.plan_file import asked, planned_groups, write_plan
from extcon_cli.pipelines.pruning.prune_run import PruneRun, analyse
from extcon_cli.pipelines.pruning.scoring import TRAINED, UNTRAINED, score, select
from extcon_cli.pipelines.running.measure import timed
from extcon_cli.pipelines.running.start import start_run
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import measure
from extcon_cli.report.results.previews import PlanResult
from extcon_cli.report.results.records import ModelStats


def plan(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    samples: int = 64,
    latency: bool = True,
    device: str | None = None,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> PlanResult:
    """Decide as `prune` would with this recipe, and write the decision to `output`.

    Args:
        recipe: `prune.ratio` or `prune.target`, `prune.score`, `prune.decide`, `data`, `model`, `task`, `seed` count.
        output: a .json file.
        samples: training samples that the sensitivity of each group is measured on; 0: it is left out.
        latency: measure that of the model and of a copy with the widths that the plan leaves.
        device, trust: as in `prune`.

    Raises: UsageError where the score needs training; GateError where the target is out of reach; as `prune` else.
    """
    if recipe.prune.score.method in TRAINED:
        raise UsageError(
            f"a plan trains nothing, and prune.score.method {recipe.prune.score.method} does: choose energy"
        )

    def tell(event: Event) -> None:  # where the run's own output would go says nothing to the user
        emit(replace(event, output=str(output)) if isinstance(event, RunStarted) else event)

    name = "net" if is_transformers(checkpoint) else "net.safetensors"
    with (
        tempfile.TemporaryDirectory() as folder,
        start_run(
            "plan",
            recipe,
            checkpoint,
            output=Path(folder, name),
            device=device,
            trust=trust,
            emit=tell,
            sparing=recipe.prune.score.method in UNTRAINED,
        ) as run,
    ):
        pruning = analyse(run)
        check_patterns(recipe.prune.decide, [group.name for group in pruning.channels.groups])
        precision = run.prepared.precision
        before = measure(pruning.original, run.prepared.example, precision)
        scores = score(pruning)
        selected = select(pruning, scores, before)
        smaller = without(pruning.original, pruning.channels, pruning.filters.masks(selected))
        after = measure(smaller, run.prepared.example, precision)
        found = _sensitivities(pruning, scores, samples) if samples else {}
        measured = latency and not is_deferred(smaller)  # to read the weights would be most of it
        modules, spec = (pruning.original, smaller), recipe.prune.latency if measured else None
        stats = ModelStats({}, before), ModelStats({}, after)
        *_, times = timed(*stats, modules, run.prepared.example, spec, device=str(run.device), emit=tell)
        sha = run.prepared.opened.checkpoint.sha256 if run.prepared.opened is not None else ""
    result = PlanResult(
        checkpoint=str(checkpoint),
        sha256=sha,
        output=str(output),
        asked=asked(recipe),
        before=before,
        after=after,
        latency=times,
        filters=int(selected.sum()),
        prunable=len(pruning.filters),
        groups=planned_groups(pruning.channels, pruning.filters, selected, found),
    )
    write_plan(output, result)
    return result


@torch.no_grad()
def _sensitivities(pruning: PruneRun, scores: Tensor, samples: int) -> dict[int, float]:
    """How much the loss on calibration samples rises where the lower half of a group's channels is silent.

    By the `id` of each group; of one group at a time, on training samples.
    """
    run, filters, task = pruning.run, pruning.filters, pruning.run.prepared.task
    (batch,) = pruning.batches(4, 1, min(samples, len(run.prepared.data.train)))
    found = {}
    with evaluating(pruning.module), run.phase("sensitivity", "Measuring layers", len(filters.groups), "group"):
        whole = float(task.loss(task.forward(pruning.module, batch), batch[1]))
        for number, (group, span) in enumerate(zip(filters.groups, filters.spans(), strict=True)):
            trial = duplicate(pruning.module).eval()
            lower = scores[span].argsort(stable=True)[: group.size // 2]
            zero_channels(trial, group, lower.cpu().numpy())
            found[id(group)] = float(task.loss(task.forward(trial, batch), batch[1])) - whole
            run.emit(Progress("sensitivity", number + 1))
    return found
