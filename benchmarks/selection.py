"""Which filters go x how their work is handed over x how they reach zero, on one image classifier at equal steps.

    python benchmarks/selection.py resnet20.th cifar10.npz --results runs.jsonl --ratios 0.7 --steps 0 128 --seeds 3

Scores: energy, norm (||F||), taylor, compensated, random, and Torch-Pruning's own importances (`tp_norm`: GroupNorm,
`tp_taylor`: GroupTaylor, from its package). Hand-overs: none, local, sequential. Schedules: `once` sets the filters to
zero at once and spends all steps on fine-tuning; `flow` spends half of them on the flow, zero at its half.

All choose among the same filters, the inner channels of the residual blocks, and fine-tune alike: batches of 64, SGD
with momentum 0.9, weight decay 5e-4, a cosine from --lr, half of the loss from the original (temperature 4). The steps
are optimizer steps; scoring (100 batches for gradients, 512 images for the saliency) and hand-over (512 images) come on
top, alike. Results are appended to --results, one JSON line a run; what is there is not run again. Prints a table.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.catalyst import scores
from extcon_cli.catalyst.bifurcation import Flow
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.hand_over import hand_over
from extcon_cli.catalyst.local_hand_over import fit_compensation
from extcon_cli.catalyst.saliency import compensated, drawn_labels
from extcon_cli.catalyst.target import decide
from extcon_cli.channels import Channels, channel_groups, remove_zeros
from extcon_cli.checkpoint.zoo import ZOO
from extcon_cli.data.augment import crop_and_flip
from extcon_cli.report.measure import measure

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
BATCH, CALIBRATION = 64, 512
CHOICES = ("energy", "norm", "taylor", "compensated", "random", "tp_norm", "tp_taylor")
OVERS = ("none", "local", "sequential")
SCHEDULES = ("once", "flow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help=".npz with x_train, y_train, x_test, y_test, images as uint8")
    parser.add_argument("--arch", default="cifar_resnet20", choices=[name for name in ZOO if "cifar" in name])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.7])
    parser.add_argument("--steps", nargs="+", type=int, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    parser.add_argument("--hand-overs", nargs="+", default=list(OVERS), choices=OVERS)
    parser.add_argument("--schedules", nargs="+", default=["once"], choices=SCHEDULES)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--held-out", action="store_true", help="measure on 2,000 training images nothing else reads")
    parser.add_argument("--images", type=int, default=10_000, help="of the test set, the first so many")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    keys = ("ratio", "steps", "seed", "choice", "hand_over", "schedule", "lr", "held_out", "images")
    known = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    done = {tuple(run[key] for key in keys) for run in known}
    for job in itertools.product(args.seeds, args.steps, args.ratios, args.schedules, args.choices, args.hand_overs):
        seed, steps, ratio, schedule, choice, over = job
        values = (ratio, steps, seed, choice, over, schedule, args.lr, args.held_out, args.images)
        if values in done or (steps == 0 and schedule == "flow"):
            continue
        run = dict(zip(keys, values, strict=True)) | bench.run(seed, steps, ratio, schedule, choice, over)
        known.append(run)
        with args.results.open("a") as file:
            file.write(json.dumps(run) + "\n")
        print(f"{job}: {run['removal']:.2f} -> {run['after']:.2f}", flush=True)
    print(table(known))


class Bench:
    """The model, its data, and the filters that may go."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.lr = args.lr
        arrays = np.load(args.data)
        images = {part: torch.from_numpy(arrays[f"x_{part}"]).permute(0, 3, 1, 2) for part in ("train", "test")}
        labels = {part: torch.from_numpy(arrays[f"y_{part}"]).long() for part in ("train", "test")}
        self.train = images["train"][:-2000].contiguous(), labels["train"][:-2000]
        held_out = images["train"][-2000:], labels["train"][-2000:]
        self.test = held_out if args.held_out else (images["test"][: args.images], labels["test"][: args.images])
        self.original = load(args.checkpoint, args.arch)
        self.example = (torch.zeros(2, 3, 32, 32),)
        self.channels: Channels = channel_groups(self.original, self.example)
        groups = [group for group in self.channels.groups if group.name.endswith("conv1") and "." in group.name]
        self.filters = Filters.of(groups)
        self.size = measure(self.original, (torch.zeros(1, 3, 32, 32),))
        self.chosen: dict[tuple[str, int], Tensor] = {}

    def batches(self, seed: int, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented training batches without end."""
        generator = torch.Generator().manual_seed(seed)
        images, labels = self.train
        while True:
            picked = torch.randint(len(images), (size,), generator=generator)
            down, right = torch.randint(9, (2, size), generator=generator)
            mirror = torch.randint(2, (size,), generator=generator).bool()
            yield normalized(crop_and_flip(images[picked], down, right, mirror, 4)), labels[picked]

    def scores(self, choice: str, seed: int) -> Tensor:
        """By a choice: larger for what matters more, to be compared across groups as they are."""
        if (choice, seed) not in self.chosen:
            self.chosen[choice, seed] = self._scores(choice, seed)
        return self.chosen[choice, seed]

    def _scores(self, choice: str, seed: int) -> Tensor:
        model, filters = copy.deepcopy(self.original), self.filters

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

    def run(self, seed: int, steps: int, ratio: float, schedule: str, choice: str, over: str) -> dict[str, Any]:
        """One job: accuracy right after removal and at the end, in percent."""
        began = time.process_time()
        decided = decide(self.scores(choice, seed), self.filters, ratio)
        model = copy.deepcopy(self.original)
        batches, calibration = self.batches(1000 + seed), next(self.batches(2000 + seed, CALIBRATION))[0]
        shrinking = steps // 2 if schedule == "flow" else 0
        self.to_zero(model, decided, shrinking, over, calibration, batches)
        # the certificate is of float32 on random inputs; a refit of so few images leaves it untouched
        small = remove_zeros(model, self.example, channels=self.channels, decided=self.filters.masks(decided)).module
        removal = self.accuracy(small)
        tune(small, self.original, itertools.islice(batches, steps - shrinking), steps - shrinking, self.lr)
        size = measure(small, (torch.zeros(1, 3, 32, 32),))
        return {
            "removal": removal,
            "after": self.accuracy(small) if steps else removal,
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
        batches: Iterator[tuple[Tensor, Tensor]],
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
            tune(model, self.original, itertools.islice(batches, steps), steps, self.lr, after=shrink, constant=True)
        else:
            shrink()
        if local is not None:
            local.move()

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        model.eval()
        parts = zip(*(part.split(500) for part in self.test), strict=True)
        return 100 * sum(int((model(normalized(x)).argmax(1) == y).sum()) for x, y in parts) / len(self.test[1])


def tune(
    model: nn.Module,
    teacher: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    lr: float,
    *,
    after: Callable[[], None] | None = None,
    constant: bool = False,
) -> None:
    """Train with half of the loss from the teacher."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    model.train()
    for step, (x, y) in enumerate(batches):
        factor = 1.0 if constant else 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = lr * factor
        with torch.no_grad():
            guide = (teacher(x) / 4).log_softmax(1)
        z = model(x)
        taught = 16 * F.kl_div((z / 4).log_softmax(1), guide, reduction="batchmean", log_target=True)
        (0.5 * F.cross_entropy(z, y) + 0.5 * taught).backward()
        if constant:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if after is not None:
            after()
    model.eval()


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
        found = graph.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=list(range(group.size)))
        parts.append(importance(found).detach().float().cpu())
    return torch.cat(parts)


def load(path: Path, arch: str) -> nn.Module:
    """The public checkpoint in extcon's own architecture, tensor by tensor."""
    model: nn.Module = ZOO[arch].build()
    state = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    held = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    model.load_state_dict({name: held[name] for name in model.state_dict() if name in held}, strict=False)
    return model.eval()


def normalized(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN) / STD


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, right after removal -> at the end, a column for each ratio and budget."""
    columns = sorted({(run["ratio"], run["steps"]) for run in runs})
    kinds = sorted({(run["schedule"], run["choice"], run["hand_over"]) for run in runs})
    rows = [
        ["schedule", "choice", "hand-over", *(f"{ratio:.0%}, {steps} steps" for ratio, steps in columns)],
        ["---"] * 3 + ["---:"] * len(columns),
    ]
    for kind in kinds:
        cells = []
        for column in columns:
            found = [run for run in runs if (run["schedule"], run["choice"], run["hand_over"]) == kind
                     and (run["ratio"], run["steps"]) == column and not run["held_out"]]  # fmt: skip
            shown = spread(found, "removal") + (f" -> {spread(found, 'after')}" if column[1] else "")
            cells.append(f"{shown} ({mean(run['macs'] for run in found):.2f})" if found else "-")
        rows.append([*kind, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def spread(runs: list[dict[str, Any]], key: str) -> str:
    values = [run[key] for run in runs]
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "") if values else "-"


if __name__ == "__main__":
    main()
