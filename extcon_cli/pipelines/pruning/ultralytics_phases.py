"""How filters of an Ultralytics model go: at once with a hand-over, or along the flow in Ultralytics' own training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from extcon_cli.catalyst import scores
from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters, scale
from extcon_cli.catalyst.hand_over import hand_over
from extcon_cli.channels import Removal, coverage, remove_zeros
from extcon_cli.checkpoint.ultralytics.file import Yolo
from extcon_cli.checkpoint.ultralytics.outputs import plain_outputs, raw_outputs
from extcon_cli.checkpoint.ultralytics.widths import Widths
from extcon_cli.errors import TraceError
from extcon_cli.events import Emit, Noted, Progress, phase
from extcon_cli.integrations.ultralytics import UltralyticsCatalyst
from extcon_cli.pipelines.pruning.bifurcate import FEWEST, NUMBERS
from extcon_cli.pipelines.pruning.scoring import choose
from extcon_cli.pipelines.pruning.ultralytics import Session
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.results.records import Size
from extcon_cli.training.optim import total_steps

SCORES = ("energy", "taylor", "magnitude", "random")
"""What filters may be scored by; along the flow it is the energy, over the steps of the training."""


@dataclass
class UltralyticsRun:
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

    @property
    def epochs(self) -> int:
        """Of the fine-tuning."""
        spec = self.recipe.prune.finetune
        return math.ceil(spec.epochs if spec.epochs is not None else (spec.steps or 0) / self.session.steps)


def at_once(
    run: UltralyticsRun,
    module: Any,
    original: Any,
    says: Widths,
    example: tuple[Tensor],
    before: Size,
    chosen: Tensor | None = None,
) -> Removal:
    """Score, decide, set to zero, hand over and remove; the module is changed on the way, and nothing is trained.

    Args:
        before: of the module.
        chosen: the filters that go, (n,); None: by their scores.
    """
    filters = Filters.of(says.channels.groups)
    selected = decided(run, module, says, example, before) if chosen is None else chosen
    with raw_outputs(module):
        scale(module, filters, torch.where(selected, 0.0, 1.0).to(run.device))
        _hand_over(run, module, original, says, filters, selected)
        with run.phase("remove", "Removing"):
            removal = remove_zeros(
                module, example, channels=says.channels, decided=filters.masks(selected), others=not ties(says)
            )
    plain_outputs(removal.module)
    return removal


def ties(says: Widths) -> list[Tie]:
    """Groups that keep the same share of their filters; none where widths are free."""
    return [Tie(one.groups, one.parts, one.allowed) for one in says.found]


def decided(run: UltralyticsRun, module: Any, says: Widths, example: tuple[Tensor], before: Size) -> Tensor:
    """The filters that go by their scores: (n,). The module is as it was; `before` is what it costs."""
    filters, spec = Filters.of(says.channels.groups), run.recipe.prune
    worth = _scores(run, module, filters)
    with raw_outputs(module):
        return choose(worth, filters, spec, module, says.channels, before, example, run.yolo.precision, ties(says))


def along_the_flow(run: UltralyticsRun, module: Any, says: Widths) -> Removal:
    """Score, flow, removal and fine-tuning in one training of Ultralytics' trainer."""
    spec = run.recipe.prune
    assert spec.ratio is not None, "checked before"
    steps = total_steps(spec.bifurcate, run.session.steps)
    callback = UltralyticsCatalyst(
        spec.ratio, score_steps=spec.score.batches, shrink_steps=max(1, round(spec.bifurcate.shrink * steps)),
        widths=spec.widths, chi=spec.bifurcate.chi, floor=spec.decide.floor, keep=spec.decide.keep,
    )  # fmt: skip
    share, prunable = coverage(module, says.channels), sum(g.size for g in says.channels.groups if g.prunable)
    epochs = math.ceil((spec.score.batches + steps + 1) / run.session.steps) + run.epochs
    small = _trained(run, module, epochs, "bifurcate", "Scoring, bifurcating and fine-tuning", callback)
    report = callback.report
    assert report is not None, "the training would have failed"
    return Removal(small, report.plan, report.certificate, report.removed, prunable, share)


def finetuned(run: UltralyticsRun, small: Any) -> Any:
    """The smaller model after Ultralytics' training, which changes it in place."""
    return _trained(run, small, run.epochs, "finetune", "Fine-tuning")


def _trained(
    run: UltralyticsRun, module: Any, epochs: int, name: str, title: str, callback: UltralyticsCatalyst | None = None
) -> Any:
    with run.phase(name, title, epochs * run.session.steps):

        def told(done: int, loss: float) -> None:
            run.emit(Progress(name, done, {"loss": loss}))

        return run.session.trained(module, epochs, run.recipe.prune.finetune, on_batch=told, callback=callback).to(
            run.device
        )


def _scores(run: UltralyticsRun, module: Any, filters: Filters) -> Tensor:
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


def _hand_over(
    run: UltralyticsRun, module: Any, original: Any, says: Widths, filters: Filters, selected: Tensor
) -> None:
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
