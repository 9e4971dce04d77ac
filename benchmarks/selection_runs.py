"""One run of selection.py: choose filters, take them to zero, hand over, remove, fine-tune, measure.

The model, its data and what is the same for all methods are held by `Bench`. Nothing here knows which runs are wanted.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from selection_nets import SUBJECTS, pixels_and_labels
from selection_training import fast, tune
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.catalyst import scores
from extcon_cli.catalyst.bifurcation import Flow
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.hand_over import hand_over
from extcon_cli.catalyst.local_hand_over import fit_compensation
from extcon_cli.catalyst.saliency import compensated, drawn_labels, marginal_costs
from extcon_cli.catalyst.target import decide, decide_within
from extcon_cli.channels import Channels, channel_groups, macs_cost, remove_zeros
from extcon_cli.report.measure import measure

BATCH, CALIBRATION = 64, 512


class Job(NamedTuple):
    """One run."""

    budget: str  # 0.7: the share of the inner filters that goes; macs/2.5: what is left of the MACs
    steps: int
    seed: int
    choice: str
    hand_over: str
    schedule: str
    training: str = "sgd"
    lr: float = 0.0


class Stage(NamedTuple):
    """A model that is to lose filters: the original, or what a schedule has made of it so far."""

    module: nn.Module
    channels: Channels
    filters: Filters


PARTS = (1 / 3, 2 / 3, 1.0)
"""What share of all that goes is gone after each of the cycles."""

BEFORE = ("budget", "seed", "choice", "hand_over", "schedule")
"""What a run right after removal depends on."""


class Bench:
    """The model, its data, and the filters that may go."""

    def __init__(self, checkpoint: Path, arch: str, data: Path, images: int, cache: Path) -> None:
        self.subject = SUBJECTS[arch]
        pixels, labels = pixels_and_labels(data, "train")
        self.train = pixels[:-2000], labels[:-2000]
        self.held_out = pixels[-2000:], labels[-2000:]
        pixels, labels = pixels_and_labels(data, "test")
        self.test = pixels[:images], labels[:images]
        self.original = self.subject.load(checkpoint)
        self.example = (torch.zeros(2, *self.subject.shape),)
        self.start = self.stage(self.original)
        self.filters = self.start.filters
        self.size = measure(self.original, (torch.zeros(1, *self.subject.shape),))
        self.cache = cache
        self.guides: dict[int, list[Tensor]] = {}
        cache.mkdir(exist_ok=True)

    def stage(self, module: nn.Module) -> Stage:
        """A model with those of its filters that may go."""
        channels = channel_groups(module, self.example)
        may = [group for group in channels.groups if self.subject.may_go(group.name)]
        return Stage(module, channels, Filters.of(may))

    def batches(self, seed: int, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented training batches without end."""
        generator = torch.Generator().manual_seed(seed)
        images, labels = self.train
        while True:
            picked = torch.randint(len(images), (size,), generator=generator)
            yield self.subject.augmented(images[picked], generator), labels[picked]

    def lessons(self, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The same batches with the original's logits, which all methods share: kept on disk."""
        path = self.cache / f"guide_{seed}.pt"
        if seed not in self.guides:
            self.guides[seed] = torch.load(path) if path.exists() else []
        known = self.guides[seed]
        held = len(known)
        try:
            for step, (x, y) in enumerate(self.batches(seed)):
                if step == len(known):
                    with torch.no_grad(), fast():
                        known.append(self.original(x).float())
                yield x, y, known[step]
        finally:
            if len(known) > held:
                torch.save(known, path)

    def scores(self, choice: str, seed: int) -> Tensor:
        """By a choice: larger for what matters more, to be compared across groups as they are."""
        name, _, allocation = choice.partition(":")
        path = self.cache / f"scores_{name}_{seed}.pt"
        if not path.exists():
            torch.save(self._scores(self.start, name, seed), path)
        found: Tensor = torch.load(path)
        return self.allocated(found, allocation, seed) if allocation else found

    def allocated(self, found: Tensor, allocation: str, seed: int) -> Tensor:
        """The order within each group stays; what is compared across groups is another.

        uniform: the rank, so that all groups lose the same share. square: a loss of the share squared, whatever the
        group. shares: a loss for each share, not for each filter. mixed, mean: shares and uniform, the hull and square
        together. measured: the cross-entropy (of the original's
        labels) that 512 images have when that group alone is cut to a half, a quarter and a tenth and handed over,
        in straight lines between, its lower convex hull.
        """
        result = torch.zeros_like(found, dtype=torch.float64)
        for span in self.filters.spans():
            order = found[span].argsort(stable=True)
            count = len(order)
            square = (2 * torch.arange(count, dtype=torch.float64) + 1) / count**2
            if allocation == "uniform":
                values = torch.arange(1, count + 1, dtype=torch.float64) / count
            elif allocation == "square":
                values = square
            elif allocation in ("shares", "mixed", "mean"):
                values = found[span][order] + (square if allocation != "shares" else 0)
                values = values * (count if allocation != "mean" else 1)
            else:
                values = self._measured(span, order, seed)
            result[span.start + order] = values
        return result

    def _measured(self, span: slice, order: Tensor, seed: int) -> Tensor:
        count = len(order)
        calibration = next(self.batches(2000 + seed, CALIBRATION))[0]
        with torch.no_grad():
            wanted = self.original(calibration).softmax(1)
        places, losses = [0], [0.0]
        for gone in (round(count * share) for share in (0.5, 0.75, 0.9)):
            decided = torch.zeros(len(self.filters), dtype=torch.bool)
            decided[span.start + order[:gone]] = True
            model = self.to_zero(self.start, decided, 0, "sequential", calibration, iter(()), 0.0)
            with torch.no_grad():
                lost = F.kl_div(model(calibration).log_softmax(1), wanted, reduction="batchmean")
            places.append(gone)
            losses.append(float(lost))
        curve = np.interp(np.arange(1, count + 1), places, np.maximum.accumulate(losses))
        return hull_slopes(torch.from_numpy(curve))

    def _scores(self, stage: Stage, choice: str, seed: int) -> Tensor:
        model, filters = copy.deepcopy(stage.module).to(memory_format=torch.channels_last), stage.filters

        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1])

        batches = itertools.islice(self.batches(seed), 100)
        if choice in ("energy", "taylor"):
            method = scores.energy if choice == "energy" else scores.taylor
            return scores.normalised(method(model, filters, batches, loss), filters)
        if choice == "norm":
            return scores.normalised(scores.magnitude(model, filters), filters)
        if choice == "random":
            return scores.random_scores(filters, seed)
        if choice == "compensated":
            generator = torch.Generator().manual_seed(seed)
            inputs = [(x,) for x, _ in itertools.islice(self.batches(seed), CALIBRATION // BATCH)]
            return compensated(model, stage.channels, filters, inputs, lambda z: drawn_labels(z[0], generator))
        return torch_pruning(model, filters, self.example, choice, batches, loss)

    def decided(self, job: Job, stage: Stage, part: float = 1.0) -> Tensor:
        """The filters that go of a stage, so that this part of all that is to go is gone: (n,)."""
        filters = stage.filters
        first = stage is self.start
        worth = self.scores(job.choice, job.seed) if first else self._scores(stage, job.choice, job.seed)
        if job.budget.startswith("macs/"):
            size = self.size.macs if first else measure(stage.module, (torch.zeros(1, *self.subject.shape),)).macs
            cost = macs_cost(stage.channels).anchored(size)
            groups = [cost.groups.index(group) for group in filters.groups]
            own = replace(cost, groups=filters.groups, held=cost.held[groups])
            return decide_within(worth, filters, own, self.size.macs * (1 - part * (1 - 1 / float(job.budget[5:]))))
        gone = len(self.filters) - len(filters)
        return decide(worth, filters, (part * float(job.budget) * len(self.filters) - gone) / len(filters))

    def run(self, job: Job, removal: float | None) -> dict[str, Any]:
        """One job: accuracy right after the last removal, unless that is known, and at the end, in percent."""
        began = time.process_time()
        lessons, calibration = self.lessons(1000 + job.seed), next(self.batches(2000 + job.seed, CALIBRATION))[0]
        stage, before = self.start, {"cycles": job.steps // 6, "flow": job.steps // 2}.get(job.schedule, 0)
        rest = job.steps - before
        if job.schedule.startswith("sparse:"):
            rest = job.steps - job.steps // 2
            stage = self.sparse(float(job.schedule[7:]), job, itertools.islice(lessons, job.steps // 2))
        elif job.schedule == "cycles":
            for part in PARTS[:-1]:
                made = self.cut(stage, job, part, 0, calibration, lessons)
                tune(made, itertools.islice(lessons, before), before, job.lr, constant=True)
                stage = self.stage(made)
            rest = job.steps - before * (len(PARTS) - 1)
        path = self.cache / ("start_" + "_".join(str(getattr(job, key)) for key in BEFORE).replace("/", "_") + ".pt")
        if job.schedule == "once" and path.exists():
            small = torch.load(path, weights_only=False)
        else:
            small = self.cut(stage, job, 1.0, before if job.schedule == "flow" else 0, calibration, lessons)
        if job.schedule == "once" and not path.exists():
            torch.save(small, path)
        removal = self.accuracy(small, self.test) if removal is None else removal
        teacher = copy.deepcopy(self.original) if job.training == "features" else None
        tune(small, itertools.islice(lessons, rest), rest, job.lr, training=job.training, teacher=teacher)
        lessons.close()
        size = measure(small, (torch.zeros(1, *self.subject.shape),))
        return {
            "removal": removal,
            "after": self.accuracy(small, self.test) if job.steps else removal,
            "held_out": self.accuracy(small, self.held_out),
            "macs": size.macs / self.size.macs,
            "params": size.params / self.size.params,
            "seconds": time.process_time() - began,
        }

    def sparse(self, strength: float, job: Job, lessons: Iterator[tuple[Tensor, Tensor, Tensor]]) -> Stage:
        """The original after training under Torch-Pruning's group regulariser, by its own pruner."""
        import torch_pruning as tp

        model = copy.deepcopy(self.original)
        held = [part for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)
                and name not in {group.name for group in self.filters.groups}]  # fmt: skip
        importance = tp.importance.GroupMagnitudeImportance()
        pruner = tp.pruner.GroupNormPruner(model, self.example[0], importance, reg=strength, ignored_layers=held)
        tune(model, lessons, job.steps // 2, job.lr, before=lambda: pruner.regularize(model), constant=True)
        return self.stage(model)

    def cut(
        self,
        stage: Stage,
        job: Job,
        part: float,  # of all that is to go
        steps: int,  # of the flow
        calibration: Tensor,
        lessons: Iterator[tuple[Tensor, Tensor, Tensor]],
    ) -> nn.Module:
        """The smaller model: filters chosen, taken to zero, their work handed over, removed."""
        decided = self.decided(job, stage, part)
        model = self.to_zero(stage, decided, steps, job.hand_over, calibration, lessons, job.lr)
        # the certificate is of float32 on random inputs; a refit of so few images leaves it untouched
        masks = stage.filters.masks(decided)
        return remove_zeros(model, self.example, channels=stage.channels, decided=masks).module

    def to_zero(
        self,
        stage: Stage,
        decided: Tensor,
        steps: int,  # of training while the filters shrink; zero after half of them
        over: str,
        calibration: Tensor,
        lessons: Iterator[tuple[Tensor, Tensor, Tensor]],
        lr: float,
    ) -> nn.Module:
        """A copy with the decided filters at zero, their work handed over."""
        model = copy.deepcopy(stage.module)
        flow = Flow(model, stage.filters, decided, steps=max(1, steps // 2))
        every = max(1, steps // 40)
        local = None
        if over == "local":
            local = fit_compensation(model, stage.channels, stage.filters, decided, [calibration], model, every=every)

        def shrink() -> None:
            fallen = flow.step(0.0)
            if local is not None:
                local.step(fallen)
            if flow.done == flow.steps and over == "sequential":
                hand_over(model, stage.module, stage.channels, stage.filters, decided, [(calibration,)])

        if steps:
            tune(model, itertools.islice(lessons, steps), steps, lr, after=shrink, constant=True)
        else:
            shrink()
        if local is not None:
            local.move()
        return model

    @torch.no_grad()
    def accuracy(self, model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
        """In percent of these images."""
        model.eval().to(memory_format=torch.channels_last)
        images, labels = data
        right = 0
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            with fast():
                right += int((model(self.subject.normalized(x)).argmax(1) == y).sum())
        return 100 * right / len(labels)


def hull_slopes(curve: Tensor) -> Tensor:
    """Slopes of the lower convex hull of a curve through (0, 0), one a step."""
    return marginal_costs(curve.clamp_min(0).sqrt()) * curve[-1]


def torch_pruning(
    model: nn.Module,
    filters: Filters,
    example: tuple[Tensor],
    choice: str,
    batches: Iterator[tuple[Tensor, Tensor]],
    loss: Callable[[tuple[Tensor, Tensor]], Tensor],
) -> Tensor:
    """Its importances, with its own defaults, of the same filters; the Taylor expansion over as many batches."""
    import torch_pruning as tp

    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example[0])
    importance = (
        tp.importance.GroupMagnitudeImportance() if choice == "tp_norm" else tp.importance.GroupTaylorImportance()
    )
    if choice == "tp_taylor":
        for batch in batches:
            (loss(batch) / 100).backward()
    parts = []
    for group in filters.groups:
        layer = model.get_submodule(group.name)
        prune = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
        found = graph.get_pruning_group(layer, prune, idxs=list(range(group.size)))
        parts.append(importance(found).detach().float().cpu())
    return torch.cat(parts)
