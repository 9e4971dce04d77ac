"""The first two phases of pruning: what each filter is worth, by the method that the recipe names, and which go."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from extcon_cli.catalyst import scores
from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters, by_group
from extcon_cli.catalyst.limits import LayerRule, Limits
from extcon_cli.catalyst.regulariser import Race, group_lasso
from extcon_cli.catalyst.saliency import Compare, compensated, drawn_labels, drawn_noise, usual_comparison
from extcon_cli.catalyst.scores import normalised
from extcon_cli.catalyst.target import decide
from extcon_cli.channels import Channels, Masks
from extcon_cli.channels.compare import Inputs, call
from extcon_cli.channels.deferred import is_deferred
from extcon_cli.channels.modules import evaluating, open_dataclasses
from extcon_cli.checkpoint.precision import Precision
from extcon_cli.errors import GateError, TraceError
from extcon_cli.events import Emit, Noted, Progress, ignore
from extcon_cli.pipelines.pruning.budget import Budget, keep_to, without
from extcon_cli.pipelines.pruning.latency_target import candidates, finer, timing, within_latency
from extcon_cli.pipelines.pruning.prune_run import PruneRun
from extcon_cli.pipelines.running.phase import run_phase
from extcon_cli.recipe.schema import BifurcateSpec, DecideSpec, PruneSpec, ScoreSpec
from extcon_cli.report.measure import measure
from extcon_cli.report.results.records import Size
from extcon_cli.tasks import Batch
from extcon_cli.tasks.base import prediction
from extcon_cli.training.global_batch_norm import global_batch_norm
from extcon_cli.training.loop import Step

TRAINED = ("race", "group_lasso")
"""Scores that a training leaves."""
LOSSES = ("energy", "taylor")
"""Scores that say what a filter's removal does to the loss, in whichever group it is."""
UNTRAINED = ("compensated", "magnitude", "random")
"""Scores that ask for no gradient of a weight."""
CLASSES = {"classification": 1, "segmentation": 1, "causal_lm": -1, "masked_lm": -1}
"""The dimension of the outputs that counts classes, of the tasks that have one."""
SHARES = ("compensated",)
"""Scores that are shares of what a whole group is worth."""


def score(pruning: PruneRun) -> Tensor:
    """One number a filter (n,), the larger the more it matters. The model is as it was."""
    spec = pruning.spec.score
    if spec.method in ("energy", "taylor"):
        return _summed(pruning, scores.energy if spec.method == "energy" else scores.taylor)
    if spec.method == "compensated":
        try:
            return pruning.run.processes.once(lambda: _compensated(pruning))
        except TraceError as error:
            if is_deferred(pruning.module):  # no gradient reaches a weight that is read when it is used
                raise TraceError(f"{error}: set prune.score.method to magnitude") from error
            pruning.run.emit(Noted(f"{error}; filters are scored by their energy instead", warning=True))
            return normalised(_summed(pruning, scores.energy), pruning.filters)
    if spec.method == "magnitude":
        return scores.magnitude(pruning.module, pruning.filters)
    if spec.method == "random":
        return scores.random_scores(pruning.filters, pruning.run.recipe.seed)
    return _trained(pruning)


def select(pruning: PruneRun, scores: Tensor, before: Size) -> Tensor:
    """Which filters go, the lowest scores first: a mask (n,). `before` is what the model costs."""
    run, filters, prepared = pruning.run, pruning.filters, pruning.run.prepared
    model = pruning.original, pruning.channels, before, prepared.example, prepared.precision
    selected = choose(scores, filters, pruning.spec, *model, pruning.ties, device=str(run.device), emit=run.emit)
    parts = by_group(filters, selected)
    shown = ", ".join(f"{name} {int(part.sum())}/{len(part)}" for name, part in parts.items())
    run.emit(Noted(f"{int(selected.sum())} of {len(filters)} filters go: {shown}"))
    return selected


def choose(
    scores: Tensor,  # (n,)
    filters: Filters,
    spec: PruneSpec,
    module: nn.Module,  # as it was
    channels: Channels,
    before: Size,  # of it
    example: Inputs,
    precision: Precision,
    ties: Sequence[Tie] = (),
    *,
    device: str = "cpu",  # that latency is measured on
    emit: Emit = ignore,
) -> Tensor:
    """The decision alone: a mask (n,). For a budget it is tried out on a copy of the module."""
    comparable = spec.score.method in SHARES or (spec.target is not None and spec.score.method in LOSSES)
    normalize = not comparable if spec.decide.normalize is None else spec.decide.normalize
    values = normalised(scores, filters) if normalize else scores
    asked, known, multiples = spec.target.latency if spec.target is not None else None, None, [1]
    if asked is not None or spec.decide.round_to == "auto":
        known = timing(module, channels, example, spec.latency, device=device, emit=emit)
        fixed = spec.decide.round_to
        multiples = [fixed] if isinstance(fixed, int) else finer(known.multiple)

    def cut(masks: Masks) -> nn.Module:
        return without(module, channels, masks)

    if asked is not None and known is not None:
        return within_latency(
            asked, known, values, filters, candidates(limits(spec.decide), channels, multiples), module, cut, example,
            seconds=spec.latency.seconds, ties=ties, emit=emit,
        )  # fmt: skip
    wanted = limits(spec.decide, multiples[0])
    if spec.ratio is not None:
        return decide(values, filters, spec.ratio, wanted, ties)
    assert spec.target is not None, "the recipe was checked"
    budget = Budget.of(spec.target, before)
    cost = budget.cost(module, channels, precision)

    def size(masks: Masks) -> Size:
        return measure(cut(masks), example, precision)

    return keep_to(budget, cost, values, filters, wanted, size, ties)


def limits(spec: DecideSpec, multiple: int = 1) -> Limits:
    """What the recipe wants respected; `multiple` is what suits the device, where the recipe leaves that open."""
    layers = [LayerRule(**layer.model_dump()) for layer in spec.layers]
    return Limits(spec.floor, spec.keep, layers, spec.round_to if isinstance(spec.round_to, int) else multiple)


def _summed(pruning: PruneRun, method: Callable[..., Tensor]) -> Tensor:
    """Energy or Taylor over training batches, weights frozen; each process takes its part of every batch."""
    spec, run, task = pruning.spec.score, pruning.run, pruning.run.prepared.task
    processes = run.processes

    def loss(numbered: tuple[int, Batch]) -> Tensor:
        number, batch = numbered
        run.emit(Progress("score", number + 1))
        with run.speed.autocast(run.accelerator), global_batch_norm(processes):
            outputs = task.forward(pruning.module, batch)
        own = task.loss(outputs, batch[1])
        if not processes.several:
            return own
        count = task.count(batch[1])
        return own * count / sum(processes.gathered(count))

    batches = enumerate(pruning.batches(1, spec.batches, spec.batch_size, processes.share))
    with run.phase("score", "Scoring filters", spec.batches):
        return method(pruning.module, pruning.filters, batches, loss, processes.add_up)


def _compensated(pruning: PruneRun) -> Tensor:
    """What is left of the loss once others stand in, on batches of the training's size; labels from the outputs.

    Raises: TraceError where the task's loss is not one of the model's plain outputs, or they cannot be run again.
    """
    run, spec = pruning.run, pruning.spec.score
    generator = torch.Generator().manual_seed(pruning.seed(1))
    size = min(spec.images, run.prepared.data.spec.batch_size)
    count = -(-spec.images // size)
    drawn = drawn_loss(pruning.module, pruning.examples[0], run.prepared.task.name, generator)
    groups = len(list(pruning.filters.spans()))
    done = itertools.count(1)

    def step() -> None:
        run.emit(Progress("score", next(done)))

    def shown() -> Iterator[Inputs]:
        for inputs, _ in pruning.batches(1, count, size):
            yield run.prepared.task.arguments(inputs)
            step()

    with run.phase("score", f"Scoring filters on {count} batches, {groups} groups", count + groups, "step"):
        return compensated(
            pruning.module, pruning.channels, pruning.filters, shown(), drawn,
            compare=compared_by(spec, run.prepared.task.name), after_group=step,
        )  # fmt: skip


def compared_by(spec: ScoreSpec, task: str) -> Compare:
    """What tells layers apart: what the recipe says, else what suits the task."""
    return spec.compare or usual_comparison(CLASSES.get(task))


def drawn_loss(
    module: nn.Module, example: Inputs, task: str, generator: torch.Generator
) -> Callable[[Sequence[Tensor]], Tensor]:
    """The loss of a model's output tensors with labels drawn from its prediction among them.

    Raises: TraceError where the task's loss is not one of the model's plain outputs.
    """
    place, classes = _prediction_place(module, example, task), CLASSES.get(task)

    def drawn(outputs: Sequence[Tensor]) -> Tensor:
        if classes is None:
            return drawn_noise(outputs[place], generator)
        return drawn_labels(outputs[place], generator, dim=classes)

    return drawn


@torch.no_grad()
def _prediction_place(module: nn.Module, example: Inputs, task: str) -> int:
    """Which of the tensors that the model gives is the prediction."""
    with evaluating(module):
        output = call(module, example)
    leaves = [leaf for leaf in tree_leaves(open_dataclasses(output)) if isinstance(leaf, Tensor)]
    try:
        wanted = prediction(output)
    except GateError as error:  # a task of its own takes what the model gives apart
        raise TraceError(f"no single output is what the loss is of: {error}") from error
    found = next((place for place, leaf in enumerate(leaves) if leaf is wanted), None)
    if found is None or not wanted.is_floating_point() or task == "detection":
        raise TraceError("no single output of the model is what the loss is of")
    return found


def _trained(pruning: PruneRun) -> Tensor:
    """The race or Group Lasso: train a copy with the regulariser and look at what it leaves."""
    spec, run, filters = pruning.spec.score, pruning.run, pruning.filters
    copied: nn.Module = copy.deepcopy(pruning.module)
    phase: BifurcateSpec = pruning.spec.bifurcate.model_copy(update={"steps": spec.steps, "epochs": None})
    race = Race.begin(copied, filters, c=spec.c, strength=spec.strength)

    def lasso() -> Tensor:
        return spec.strength * group_lasso(copied, filters)

    def follow(step: Step) -> None:
        race.step(step.lr)

    racing = spec.method == "race"
    trainer = pruning.trainer(1, phase, copied, penalty=race.penalty if racing else lasso)
    outcome = run_phase(
        "score", "Racing" if racing else "Group Lasso", trainer, emit=run.emit, stop=run.stop,
        after_step=follow if racing else None,
    )  # fmt: skip
    run.seconds["score"] = outcome.seconds
    return race.scores() if racing else scores.magnitude(copied, filters)
