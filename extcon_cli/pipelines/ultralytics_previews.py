"""`extcon plan` and `extcon prune --dry-run` of a checkpoint of Ultralytics. Neither trains; a plan alone is kept."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from extcon_cli.catalyst.filters import Filters
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.ultralytics.outputs import plain_outputs, raw_outputs
from extcon_cli.checkpoint.ultralytics.widths import Widths
from extcon_cli.events import Emit, Event, RunStarted, ignore
from extcon_cli.pipelines.pruning.budget import without
from extcon_cli.pipelines.pruning.keep import check_patterns
from extcon_cli.pipelines.pruning.plan_file import asked, planned_groups, read_plan, write_plan
from extcon_cli.pipelines.pruning.ultralytics_phases import decided
from extcon_cli.pipelines.running.rehearsal import planned_steps, quietly, shortened
from extcon_cli.pipelines.ultralytics import prune_with, started
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import measure
from extcon_cli.report.results.previews import DryRunResult, PlanResult


def plan_ultralytics(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    device: str | None = None,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> PlanResult:
    """Decide as `prune` would with this recipe, and write the decision to `output`, a .json file.

    Sensitivities and latency are not measured. Raises as `prune_ultralytics`.
    """

    def tell(event: Event) -> None:  # where the run's own output would go says nothing to the user
        emit(replace(event, output=str(output)) if isinstance(event, RunStarted) else event)

    with (
        tempfile.TemporaryDirectory() as folder,
        started(
            "plan", checkpoint, recipe, output=Path(folder, "net.pt"), device=device, trust=trust, emit=tell
        ) as run,
    ):
        torch.manual_seed(recipe.seed)
        module, example, precision = run.yolo.module.to(run.device), run.session.example(), run.yolo.precision
        says = Widths.of(module, example, recipe.prune.widths)
        channels, filters = says.channels, Filters.of(says.channels.groups)
        check_patterns(recipe.prune.decide, [group.name for group in channels.groups])
        before = measure(module, example, precision)
        selected = decided(run, module, says, example, before)
        with raw_outputs(module):
            smaller = without(module, channels, filters.masks(selected))
        plain_outputs(smaller)
        after = measure(smaller, example, precision)
        result = PlanResult(
            checkpoint=str(checkpoint),
            sha256=run.yolo.sha256,
            output=str(output),
            asked=asked(recipe),
            before=before,
            after=after,
            filters=int(selected.sum()),
            prunable=len(filters),
            groups=planned_groups(channels, filters, selected),
        )
    write_plan(output, result)
    return result


def try_ultralytics(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,  # of the real run, which was checked
    device: str | None = None,
    plan: Path | None = None,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> DryRunResult:
    """The whole command but for its training, on a few batches, into a folder that is thrown away.

    Ultralytics' trainer is made, so that it has read its settings and its data; it takes no step. Its validator
    measures on all of its validation split. Raises as `prune_ultralytics`.
    """
    began, short = time.monotonic(), shortened(recipe)
    still = short.prune.model_copy(update={
        "bifurcate": short.prune.bifurcate.model_copy(update={"method": "none"}),
        "finetune": short.prune.finetune.model_copy(update={"epochs": None, "steps": 0}),
    })  # fmt: skip
    document = read_plan(plan) if plan is not None else None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, output.name)
        with started(
            "prune", checkpoint, recipe, output=copy, device=device, trust=trust, emit=quietly(emit, output)
        ) as run:
            session = run.session
            samples = {"train": session.samples("train"), "validation": session.samples("val"), "test": 0}
            steps = planned_steps("prune", recipe, session.steps)
            tried = replace(run, recipe=short.model_copy(update={"prune": still}))
            result = prune_with(tried, copy, latency=False, plan=document, source=str(plan))
    return DryRunResult(
        tried="prune",
        checkpoint=str(checkpoint),
        output=str(output),
        device=str(run.device),
        samples=samples,
        read=samples["validation"],
        steps=steps,
        before=result.before.size,
        after=result.after.size,
        seconds=time.monotonic() - began,
    )
