"""`extcon prune yolov8n.pt`: a checkpoint of Ultralytics in, one that Ultralytics takes unchanged out.

Score, decide, hand over and remove as for any model; data, figures and training are Ultralytics' own. A run that is
interrupted begins anew.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extcon_cli import __version__
from extcon_cli.catalyst import scores
from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters, scale
from extcon_cli.catalyst.hand_over import hand_over
from extcon_cli.channels import Removal, coverage, remove_zeros
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.precision import round_to
from extcon_cli.checkpoint.trust import UNTRUSTED, Trust
from extcon_cli.checkpoint.ultralytics.file import Yolo, content_like, read_yolo
from extcon_cli.checkpoint.ultralytics.outputs import plain_outputs, raw_outputs
from extcon_cli.checkpoint.ultralytics.widths import Widths
from extcon_cli.errors import TraceError, UsageError
from extcon_cli.events import Emit, Noted, Progress, RunStarted, Saved, ignore, phase
from extcon_cli.pipelines.pruning.bifurcate import FEWEST, NUMBERS
from extcon_cli.pipelines.pruning.budget import Budget
from extcon_cli.pipelines.pruning.keep import check_patterns
from extcon_cli.pipelines.pruning.removal import certificate_record, figures
from extcon_cli.pipelines.pruning.scoring import choose
from extcon_cli.pipelines.pruning.ultralytics import Session
from extcon_cli.pipelines.running.gates import NO_LIMITS, Limits, enforce
from extcon_cli.pipelines.running.measure import timed
from extcon_cli.pipelines.running.output import frozen, widths
from extcon_cli.recipe.load import to_dict
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.measure import measure
from extcon_cli.report.numbers import percent
from extcon_cli.report.records import ModelStats, RunFacts
from extcon_cli.report.results import FolderFigures, PruneRecord, PruneResult, SizeChange
from extcon_cli.report.serialise import to_json
from extcon_cli.tasks import Task
from extcon_cli.training.device import create_accelerator
from extcon_cli.training.run_lock import RunLock
from extcon_cli.training.whole import write_whole

SCORES = ("energy", "taylor", "magnitude", "random")


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
    latency: bool = True,
    trust: Trust = UNTRUSTED,
    emit: Emit = ignore,
) -> PruneResult:
    """Prune a checkpoint of Ultralytics, and write the smaller one to `output`, a .pt file.

    Args:
        recipe: its `prune`, `data`, `model.input_shape` and `seed` count.
        device, force, limits, keep_run, latency, trust: as in `prune`.

    Raises: GateError where the removal is not exact, the target is missed, the YAML cannot say the widths, or a limit
    is not kept; then nothing is written.
    """
    _check(recipe)
    if output.exists() and not force:
        raise UsageError(f"{output} exists already; overwrite it with --force or choose another --out")
    yolo = read_yolo(checkpoint, trust_pickle=trust.pickle)
    if recipe.prune.finetune.distill is not None and recipe.prune.finetune.steps != 0:
        emit(Noted("Ultralytics' trainer trains: the original does not teach (prune.finetune.distill)", warning=True))
    place = create_accelerator(device).device
    lock = RunLock(Path(f"{output}.run"))
    try:
        emit(RunStarted("prune", str(checkpoint), str(output), str(place), recipe.seed))
        run = _Run(yolo, Session(yolo, recipe, lock.folder, place), recipe, place, emit)
        return _prune(run, output, limits=limits, latency=latency)
    finally:
        if not keep_run:
            shutil.rmtree(lock.folder, ignore_errors=True)
            lock.remove()


@dataclass
class _Run:
    """What the phases share."""

    yolo: Yolo
    session: Session
    recipe: Recipe
    device: torch.device
    emit: Emit
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def phase(self, name: str, title: str, total: int | None = None) -> Iterator[dict[str, float]]:
        began = time.monotonic()
        with phase(self.emit, name, title, total) as closing:
            yield closing
        self.seconds[name] = time.monotonic() - began


def _prune(run: _Run, output: Path, *, limits: Limits, latency: bool) -> PruneResult:
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
    filters = Filters.of(says.channels.groups)
    worth = _scores(run, module, filters)
    ties = [Tie(one.groups, one.parts, one.allowed) for one in says.found]
    with raw_outputs(module):
        selected = choose(worth, filters, spec, module, says.channels, before.size, example, yolo.precision, ties)
        scale(module, filters, torch.where(selected, 0.0, 1.0).to(run.device))
        _hand_over(run, module, original, says, filters, selected)
        with run.phase("remove", "Removing"):
            removal = remove_zeros(
                module, example, channels=says.channels, decided=filters.masks(selected), others=not ties
            )
    small: Any = removal.module
    plain_outputs(small)
    moved = session.figures(module), session.figures(small)
    says.finish(small, example)
    small = _finetuned(run, small)
    round_to(small, yolo.precision)
    gap = says.finish(small.to(run.device), example)
    after = ModelStats(session.figures(small), measure(small, example, yolo.precision))
    target = Budget.of(spec.target, before.size).figures(after.size) if spec.target is not None else None
    record = PruneRecord(
        before=before,
        after=after,
        removal=figures(
            removal, removal.certificate.random, requested=spec.ratio, before=moved[0], after=moved[1], target=target
        ),
        certificate=certificate_record(removal.certificate),
    )
    old, new, times = timed(
        before, after, (original, small), example, spec.latency if latency else None, device=str(run.device),
        emit=run.emit,
    )  # fmt: skip
    gates = limits.checked(Told() if yolo.task == "classify" else Found(), old, new)
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
    if spec.bifurcate.method != "none":
        raise UsageError(f"prune.bifurcate.method {spec.bifurcate.method}: models of Ultralytics take none")


def _scores(run: _Run, module: Any, filters: Filters) -> Tensor:
    """What each filter is worth: (n,)."""
    spec = run.recipe.prune.score
    if spec.method == "magnitude":
        return scores.magnitude(module, filters)
    if spec.method == "random":
        return scores.random_scores(filters, run.recipe.seed)
    if spec.method == "compensated":
        run.emit(Noted("no single output is what the loss is of; filters are scored by their energy", warning=True))

    def loss(numbered: tuple[int, dict[str, Any]]) -> Tensor:
        run.emit(Progress("score", numbered[0]))
        return run.session.loss(module, numbered[1])

    batches = enumerate(run.session.batches(spec.batches, spec.batch_size), 1)
    with run.phase("score", "Scoring filters", spec.batches):
        return (scores.taylor if spec.method == "taylor" else scores.energy)(module, filters, batches, loss)


def _hand_over(run: _Run, module: Any, original: Any, says: Widths, filters: Filters, selected: Tensor) -> None:
    """The channels that stay stand in for those that are at zero now, where the recipe asks for it."""
    spec = run.recipe.prune.compensate
    if not spec.enabled:
        return
    each = 3 * run.session.image_size**2
    images = max(1, min(spec.images, max(FEWEST, NUMBERS // each)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with run.phase("compensate", "Handing over"), raw_outputs(original):
        batches = [(batch["img"],) for batch in run.session.batches(1, images)]
        try:
            hand_over(module, original, says.channels, filters, selected, batches, ridge=spec.ridge)
        except TraceError as error:
            module.load_state_dict(before)
            run.emit(Noted(f"nothing was handed over: {error}", warning=True))


def _finetuned(run: _Run, small: Any) -> Any:
    """The smaller model after Ultralytics' training, where the recipe asks for one."""
    spec = run.recipe.prune.finetune
    epochs = math.ceil(spec.epochs if spec.epochs is not None else (spec.steps or 0) / run.session.steps)
    if not epochs:
        return small
    with run.phase("finetune", "Fine-tuning", None):

        def told(done: int, total: int, loss: float) -> None:
            run.emit(Progress("finetune", done, {"loss": loss}))

        return run.session.trained(small, epochs, spec, callbacks={}, on_batch=told).to(run.device)


def _described(run: _Run, record: PruneRecord, removal: Removal) -> Metadata:
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
