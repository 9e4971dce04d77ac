"""One run of selection.py: choose filters, take them to zero, hand over, remove, fine-tune, measure.

The model, its data and what is the same for all methods are held by `Bench`. Nothing here knows which runs are wanted.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from selection_nets import SUBJECTS, pixels_and_labels
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

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
        self.channels: Channels = channel_groups(self.original, self.example)
        self.filters = Filters.of([group for group in self.channels.groups if self.subject.may_go(group.name)])
        self.size = measure(self.original, (torch.zeros(1, *self.subject.shape),))
        self.cache = cache
        self.guides: dict[int, list[Tensor]] = {}
        cache.mkdir(exist_ok=True)

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
            torch.save(self._scores(name, seed), path)
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
            model = copy.deepcopy(self.original)
            self.to_zero(model, decided, 0, "sequential", calibration, iter(()), 0.0)
            with torch.no_grad():
                lost = F.kl_div(model(calibration).log_softmax(1), wanted, reduction="batchmean")
            places.append(gone)
            losses.append(float(lost))
        curve = np.interp(np.arange(1, count + 1), places, np.maximum.accumulate(losses))
        return hull_slopes(torch.from_numpy(curve))

    def _scores(self, choice: str, seed: int) -> Tensor:
        model, filters = copy.deepcopy(self.original).to(memory_format=torch.channels_last), self.filters

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
            return compensated(model, self.channels, filters, inputs, lambda z: drawn_labels(z[0], generator))
        return torch_pruning(model, filters, self.example, choice, batches, loss)

    def decided(self, job: Job) -> Tensor:
        """The filters that go: (n,)."""
        worth = self.scores(job.choice, job.seed)
        if job.budget.startswith("macs/"):
            cost = macs_cost(self.channels).anchored(self.size.macs)
            groups = [cost.groups.index(group) for group in self.filters.groups]
            own = replace(cost, groups=self.filters.groups, held=cost.held[groups])
            return decide_within(worth, self.filters, own, self.size.macs / float(job.budget[5:]))
        return decide(worth, self.filters, float(job.budget))

    def run(self, job: Job, removal: float | None) -> dict[str, Any]:
        """One job: accuracy right after removal, unless that is known, and at the end, in percent."""
        decided = self.decided(job)
        began = time.process_time()
        model = copy.deepcopy(self.original)
        lessons, calibration = self.lessons(1000 + job.seed), next(self.batches(2000 + job.seed, CALIBRATION))[0]
        shrinking = job.steps // 2 if job.schedule == "flow" else 0
        self.to_zero(model, decided, shrinking, job.hand_over, calibration, lessons, job.lr)
        # the certificate is of float32 on random inputs; a refit of so few images leaves it untouched
        small = remove_zeros(model, self.example, channels=self.channels, decided=self.filters.masks(decided)).module
        removal = self.accuracy(small, self.test) if removal is None else removal
        teacher = copy.deepcopy(self.original) if job.training == "features" else None
        rest = job.steps - shrinking
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

    def to_zero(
        self,
        model: nn.Module,
        decided: Tensor,
        steps: int,  # of training while the filters shrink; zero after half of them
        over: str,
        calibration: Tensor,
        lessons: Iterator[tuple[Tensor, Tensor, Tensor]],
        lr: float,
    ) -> None:
        """Take the decided filters to zero, and hand their work over."""
        flow = Flow(model, self.filters, decided, steps=max(1, steps // 2))
        every = max(1, steps // 40)
        local = None
        if over == "local":
            local = fit_compensation(model, self.channels, self.filters, decided, [calibration], model, every=every)

        def shrink() -> None:
            fallen = flow.step(0.0)
            if local is not None:
                local.step(fallen)
            if flow.done == flow.steps and over == "sequential":
                arguments = model, self.original, self.channels, self.filters, decided
                hand_over(*arguments, [(calibration,)])

        if steps:
            tune(model, itertools.islice(lessons, steps), steps, lr, after=shrink, constant=True)
        else:
            shrink()
        if local is not None:
            local.move()

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


def tune(
    model: nn.Module,
    lessons: Iterator[tuple[Tensor, Tensor, Tensor]],
    steps: int,
    lr: float,
    *,
    after: Callable[[], None] | None = None,
    constant: bool = False,
    training: str = "sgd",
    teacher: nn.Module | None = None,  # whose blocks give features, where these are matched
) -> None:
    """Train with half of the loss from the teacher."""
    model.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(model, training, lr)
    rates = [group["lr"] for group in optimizer.param_groups]
    average = AveragedModel(model, use_buffers=True) if training == "average" else None
    model.train()
    seen, wanted = (Features(model), Features(teacher)) if teacher is not None else (None, None)
    for step, (x, y, guide) in enumerate(lessons):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1.0 if constant else 0.5 * (1 + math.cos(math.pi * step / steps)))
        with fast():
            z = model(x)
        z = z.float()
        taught = 16 * F.kl_div(
            (z / 4).log_softmax(1), (guide / 4).log_softmax(1), reduction="batchmean", log_target=True
        )
        loss = 0.5 * F.cross_entropy(z, y) + 0.5 * taught
        if teacher is not None and seen is not None and wanted is not None:
            with torch.no_grad(), fast():
                teacher(x)
            loss = loss + seen.apart(wanted)
        loss.backward()
        if constant:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if after is not None:
            after()
        if average is not None and 2 * step >= steps:
            average.update_parameters(model)
    for features in (seen, wanted):
        if features is not None:
            features.detach()
    if average is not None and steps > 1:
        model.load_state_dict(average.module.state_dict())
    model.eval().to(memory_format=torch.contiguous_format)


def optimizer_of(model: nn.Module, training: str, lr: float) -> torch.optim.Optimizer:
    """SGD, or what `training` names; AdamW's rate is a tenth of SGD's."""
    if training == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr / 10, weight_decay=0.01)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


class Features:
    """What the residual blocks of a model give; their streams are as wide as the original's."""

    def __init__(self, model: nn.Module) -> None:
        self.held: list[Tensor] = []
        blocks = [block for block in model.modules() if hasattr(block, "conv2")]
        self.hooks = [block.register_forward_hook(self._keep) for block in blocks]
        self.count = len(blocks)

    def _keep(self, _module: nn.Module, _inputs: tuple[Tensor, ...], given: Tensor) -> None:
        self.held = [*self.held, given] if len(self.held) < self.count else [given]

    def apart(self, wanted: Features) -> Tensor:
        """The mean over blocks of the squared difference over the variance."""
        pairs = zip(self.held, wanted.held, strict=True)
        return torch.stack([F.mse_loss(now.float(), then.float()) / then.float().var() for now, then in pairs]).mean()

    def detach(self) -> None:
        for hook in self.hooks:
            hook.remove()


def fast() -> torch.autocast:
    """bfloat16 where the processor multiplies matrices of it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())


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
