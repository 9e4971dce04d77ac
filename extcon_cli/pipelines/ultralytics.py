"""`extcon prune yolov8n.pt`: a checkpoint of Ultralytics in, one that Ultralytics takes unchanged out.

Score, decide, hand over and remove as for any model; data, figures and training are Ultralytics' own. A run that is
interrupted begins anew.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extcon_cli import __version__
from extcon_cli.catalyst.filters import Filters
from extcon_cli.channels import Removal, coverage
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.precision import round_to
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.ultralytics.file import Yolo, content_like, read_yolo
from extcon_cli.checkpoint.ultralytics.widths import Widths
from extcon_cli.errors import UsageError
from extcon_cli.events import Emit, Noted, RunStarted, Saved, ignore
from extcon_cli.pipelines.pruning.budget import Budget
from extcon_cli.pipelines.pruning.keep import check_patterns
from extcon_cli.pipelines.pruning.plan_file import planned, read_plan
from extcon_cli.pipelines.pruning.removal import certificate_record, figures
from extcon_cli.pipelines.pruning.ultralytics import Session
from extcon_cli.pipelines.pruning.ultralytics_phases import (
    SCORES,
    UltralyticsRun,
    along_the_flow,
    at_once,
    finetuned,
    ties,
)
from extcon_cli.pipelines.running.gates import NO_LIMITS, Limits, enforce
from extcon_cli.pipelines.running.measure import timed
from extcon_cli.pipelines.running.output import frozen, widths
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import measure
from extcon_cli.report.numbers import percent
from extcon_cli.report.results.prune import FolderFigures, PruneRecord, PruneResult, SizeChange
from extcon_cli.report.results.records import Metrics, ModelStats, RunFacts
from extcon_cli.report.serialise import Json, to_json
from extcon_cli.tasks import Task
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.run_lock import RunLock
from extcon_cli.training.whole import write_whole


class Found(Task):
    """What a model of Ultralytics is judged by, for the limits of a run."""

    figure, higher = "map", True


class Told(Task):
    """The same of a classifier."""

    figure, higher = "accuracy", True


def prune_ultralytics(
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    device: str | None = None,
    force: bool = False,
    limits: Limits = NO_LIMITS,
    keep_run: bool = False,
    plan: Path | None = None,
    latency: bool = True,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> PruneResult:
    """Prune a checkpoint of Ultralytics, and write the smaller one to `output`, a .pt file.

    Args:
        recipe: its `prune`, `data`, `model.input_shape` and `seed` count.
        device, force, limits, keep_run, plan, latency, trust: as in `prune`.

    Raises: GateError where the removal is not exact, the target is missed, the YAML cannot say the widths, or a limit
    is not kept; then nothing is written.
    """
    document = read_plan(plan) if plan is not None else None
    if document is not None and recipe.prune.bifurcate.method == "flow":
        raise UsageError("--plan says what goes, and the flow in Ultralytics' trainer decides itself: leave one out")
    if output.exists() and not force:
        raise UsageError(f"{output} exists already; overwrite it with --force or choose another --out")
    with started(
        "prune", checkpoint, recipe, output=output, device=device, keep_run=keep_run, trust=trust, emit=emit
    ) as run:
        return prune_with(run, output, limits=limits, latency=latency, plan=document, source=str(plan))


@contextmanager
def started(
    command: str,
    checkpoint: Path,
    recipe: Recipe,
    *,
    output: Path,
    device: str | None,
    keep_run: bool = False,
    trust: Trust,
    emit: Emit,
) -> Iterator[UltralyticsRun]:
    """A run with its model and data open; what Ultralytics writes on its way goes with it. `output`: as in `prune`."""
    _check(recipe)
    yolo = read_yolo(checkpoint, trust_pickle=trust.pickle)
    if recipe.prune.finetune.distill is not None and recipe.prune.finetune.steps != 0:
        emit(Noted("Ultralytics' trainer trains: the original does not teach (prune.finetune.distill)", warning=True))
    place = create_accelerator(device).device
    lock = RunLock(Path(f"{output}.run"))
    try:
        emit(RunStarted(command, str(checkpoint), str(output), str(place), recipe.seed))
        yield UltralyticsRun(yolo, Session(yolo, recipe, lock.folder, place), recipe, place, emit)
    finally:
        if not keep_run:
            shutil.rmtree(lock.folder, ignore_errors=True)
            lock.remove()


def prune_with(
    run: UltralyticsRun,
    output: Path,
    *,
    limits: Limits = NO_LIMITS,
    latency: bool = True,
    plan: Mapping[str, Json] | None = None,
    source: str = "",
) -> PruneResult:
    """The phases of `prune_ultralytics`, and the checkpoint. `plan`: a plan's document, read from `source`."""
    spec, yolo, session = run.recipe.prune, run.yolo, run.session
    if spec.decide.round_to == "auto" or (spec.target is not None and spec.target.latency is not None):
        raise UsageError(
            "checkpoints of Ultralytics have no target of latency: give --macs, --params or --size, and a number for "
            "prune.decide.round_to"
        )
    torch.manual_seed(run.recipe.seed)
    module, example = yolo.module.to(run.device), session.example()
    original = copy.deepcopy(module).requires_grad_(False)
    with run.phase("measure", "Measuring the model") as closing:
        before = ModelStats(session.figures(module), measure(module, example, yolo.precision))
        closing.update(before.metrics)
    with run.phase("trace", "Tracing the model"):
        says = Widths.of(module, example, spec.widths)
        shares = {"uniform": coverage(module, says.channels), "free": coverage(module, says.every)}
    if spec.widths == "uniform":
        text = f"{percent(shares['uniform'])} of the parameters can go so that the YAML says it"
        run.emit(Noted(f"{text}, {percent(shares['free'])} where widths are free"))
    check_patterns(spec.decide, [group.name for group in says.channels.groups])
    chosen = planned(plan, says.channels, Filters.of(says.channels.groups), source, ties(says)) if plan else None
    removal, moved = _removed(run, module, original, says, example, before, chosen)
    small: Any = removal.module
    round_to(small, yolo.precision)
    gap = says.finish(small.to(run.device), example)
    after = ModelStats(session.figures(small), measure(small, example, yolo.precision))
    asked = spec.target if chosen is None else None
    target = Budget.of(asked, before.size).figures(after.size) if asked is not None else None
    record = PruneRecord(
        before=before,
        after=after,
        removal=figures(
            removal,
            removal.certificate.random,
            requested=spec.ratio if chosen is None else None,
            before=moved[0],
            after=moved[1],
            target=target,
        ),
        certificate=certificate_record(removal.certificate),
    )
    old, new, times = timed(
        before, after, (original, small), example, spec.latency if latency else None, device=str(run.device),
        emit=run.emit,
    )  # fmt: skip
    gates = limits.checked(_judge(yolo), old, new)
    changes = {width.name: SizeChange(width.value, value) for width, value in says.values(small).items()}
    result = PruneResult(
        before=old,
        after=new,
        removal=record.removal,
        certificate=record.certificate,
        layers=widths(original, small),
        frozen=frozen(says.channels),
        latency=times,
        folder=FolderFigures(
            widths=spec.widths,
            config=changes,
            plain_difference=gap.relative if gap is not None else None,
            uniform_share=shares["uniform"],
            free_share=shares["free"],
        ),
        run=RunFacts(
            checkpoint=str(yolo.path),
            output=str(output),
            recipe=to_dict(run.recipe),
            seed=run.recipe.seed,
            device=str(run.device),
            threads=torch.get_num_threads(),
            seconds={**run.seconds, "total": time.monotonic() - run.began},
            test_caution="Ultralytics measures on its validation split, on which it also chose the best state",
        ),
        gates=gates or None,
    )
    enforce(gates, result, hint="; nothing was written")
    _write(output, yolo, small, _described(run, record, removal))
    run.emit(Saved(str(output)))
    return result


def _removed(
    run: UltralyticsRun,
    module: Any,
    original: Any,
    says: Widths,
    example: tuple[Tensor],
    before: ModelStats,
    chosen: Tensor | None = None,
) -> tuple[Removal, tuple[Metrics, Metrics]]:
    """What is left in the end, and the figures right before and right after the removal, where it is a phase.

    `chosen`: the filters that go, (n,); None: by their scores.
    """
    if run.recipe.prune.bifurcate.method == "flow":
        return along_the_flow(run, module, says), ({}, {})
    removal = at_once(run, module, original, says, example, before.size, chosen)
    moved = run.session.figures(module), run.session.figures(removal.module)
    says.finish(removal.module, example)
    if not run.epochs:
        return removal, moved
    trained = finetuned(run, copy.deepcopy(removal.module))
    figure, reached = _judge(run.yolo).figure, run.session.figures(trained)
    if reached[figure] >= moved[1][figure]:
        return replace(removal, module=trained), moved
    text = f"fine-tuning ended at {figure} {percent(reached[figure])}, below {percent(moved[1][figure])} before it"
    run.emit(Noted(f"{text}: the model before it is kept", warning=True))
    return removal, moved


def _judge(yolo: Yolo) -> Task:
    return Told() if yolo.task == "classify" else Found()


def _check(recipe: Recipe) -> None:
    """UsageError where the recipe asks for what is not done with Ultralytics' loaders and trainer."""
    spec, data = recipe.prune, recipe.data
    if data is None or data.dataset != "ultralytics" or data.root is None:
        raise UsageError(
            "a checkpoint of Ultralytics takes data that Ultralytics reads: give --data coco8.yaml, or set "
            "data.dataset to ultralytics and data.root to the YAML (of a classifier: the folder)"
        )
    if spec.score.method not in (*SCORES, "compensated"):
        raise UsageError(f"prune.score.method {spec.score.method}: models of Ultralytics take {', '.join(SCORES)}")
    flow = spec.bifurcate.method
    if flow not in ("none", "flow"):
        raise UsageError(f"prune.bifurcate.method {flow}: models of Ultralytics take none and flow")
    if flow == "flow" and (spec.ratio is None or spec.decide.layers or spec.decide.round_to not in (None, 1, "auto")):
        raise UsageError("the flow in Ultralytics' trainer takes a ratio, and no layers or round_to of prune.decide")


def _described(run: UltralyticsRun, record: PruneRecord, removal: Removal) -> Metadata:
    """What the smaller checkpoint says of itself."""
    return Metadata(
        arch=None,
        recipe=to_dict(run.recipe),
        plan=removal.plan.to_json(),
        history=(to_json(record),),
        classes=tuple(map(str, dict(run.yolo.module.names).values())),
        version=__version__,
    )


def _write(output: Path, yolo: Yolo, small: Any, metadata: Metadata) -> None:
    content = content_like(yolo, small, metadata)
    try:
        write_whole(output, lambda file: torch.save(content, file))
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}; choose another --out") from error
