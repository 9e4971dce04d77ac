"""Which filters go x how their work is handed over x how they reach zero, on an image classifier at equal steps.

    python benchmarks/selection.py resnet20.th cifar10.npz --results runs.jsonl
    python benchmarks/selection.py resnet20.th cifar10.npz --results runs.jsonl --budgets 0.7 --steps 0 128 --seeds 0 \\
        --methods compensated/sequential/once tp_norm/none/once

Without --methods it runs its own list, stage by stage, what tells most first. A method is score/hand-over/schedule, and
/training where that is not sgd. Scores: energy, norm (||F||), taylor, compensated, random, and Torch-Pruning's own
importances from its package (`tp_norm`: GroupNorm, `tp_taylor`: GroupTaylor). `compensated:uniform` and others keep the
order within groups and share the budget out in another way (`Bench.allocated`). Hand-overs: none, local, sequential.
Schedules: `once` sets the filters to zero at once and spends all steps on fine-tuning; `flow` spends half of them on
the flow, zero at its half; `cycles` scores, cuts a third and hands over three times, with a sixth of the steps after
each of the first two; `sparse:0.03` spends half of them on the original under the regulariser of Torch-Pruning's
GroupNormPruner of that strength, and scores what that leaves. Trainings: sgd, adamw, average (of the weights of the
second half of the steps), features (what residual blocks give is matched with the original's, too), t8 (sgd, distilled
at temperature 8; the others at 4). A budget is a share of the inner filters that goes (0.7), or what is left of the
MACs (macs/2.5).

All choose among the same filters, the inner channels of the residual blocks, and fine-tune alike: batches of 64, SGD
with momentum 0.9, weight decay 5e-4, a cosine, half of the loss from the original, bfloat16 where that is fast. The
rate is the one of RATES by which the method had the most of 2,000 held-out training images right at 70 %, seed 0, after
as many steps; --lr sets it. Steps are optimizer steps; scoring (100 batches for gradients, 512 images for the saliency)
and hand-over (512 images) come on top, alike. --arch names the network: `selection_nets.py` trains two.

Results are appended to --results, one JSON line a run; what is there is not run again, and models right after removal
are kept beside it. Prints a table.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from selection_nets import SUBJECTS
from selection_runs import BEFORE, Bench, Job

RATES = (0.005, 0.01, 0.02)
SEEDS = (0, 1, 2)
BUDGETS = ("0.7", "0.85", "macs/2.5", "macs/4")
SCORES = ("tp_norm", "tp_taylor", "energy", "compensated")
LEADING = (
    "compensated/sequential/once", "tp_norm/none/once", "tp_norm/sequential/once", "tp_taylor/none/once",
    "compensated/sequential/flow", "tp_taylor/sequential/once",
)  # fmt: skip
PLAIN = tuple(f"{score}/{over}/once" for score, over in itertools.product(SCORES, ("none", "sequential")))
ALLOCATIONS = tuple(f"compensated:{name}/sequential/once" for name in ("uniform", "shares", "mixed", "measured"))
STAGES: tuple[tuple[Sequence[str], Sequence[int], Sequence[str], Sequence[int]], ...] = (
    # budgets, steps, methods, seeds
    (BUDGETS[:1], (0,), PLAIN, SEEDS),
    (BUDGETS[:1], (128,), LEADING[:3], SEEDS),
    (BUDGETS[:1], (128,), LEADING[3:5], SEEDS),
    (BUDGETS[1:2], (0, 128), LEADING[:4], SEEDS[:2]),
    (BUDGETS[2:3], (0, 128), LEADING[:4], SEEDS[:2]),
    (BUDGETS[:2], (0,), ALLOCATIONS, SEEDS[:1]),
    (BUDGETS[:1], (256,), LEADING[:3], SEEDS[:2]),
    (BUDGETS[:1], (768,), LEADING[:3], SEEDS[:1]),
    (BUDGETS[1:], (0, 128), LEADING[:4], SEEDS),
    (BUDGETS[:1], (0,), tuple(f"{score}/local/once" for score in SCORES), SEEDS),
    (BUDGETS[1:], (0,), PLAIN, SEEDS),
    (BUDGETS, (0,), ALLOCATIONS, SEEDS),
    (BUDGETS, (256,), LEADING[:3], SEEDS),
    (BUDGETS, (768,), LEADING[:3], SEEDS),
    (BUDGETS, (128, 256, 768), LEADING, SEEDS),
    (BUDGETS, (3000,), LEADING[:3], SEEDS),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help=".npz with x_train, y_train, x_test, y_test, images as uint8")
    parser.add_argument("--arch", default="cifar_resnet20", choices=SUBJECTS)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", help="score/hand-over/schedule, or with /training behind")
    parser.add_argument("--budgets", nargs="+", default=["0.7"])
    parser.add_argument("--steps", nargs="+", type=int, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--lr", type=float, help="learning rate of every method; not tuned")
    parser.add_argument("--images", type=int, default=10_000, help="of the test set, the first so many")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    store = Store(args.results)
    bench = Bench(args.checkpoint, args.arch, args.data, args.images, args.results.with_suffix(".cache"))
    stages = [(args.budgets, args.steps, args.methods, args.seeds)] if args.methods else STAGES
    for job in itertools.chain.from_iterable(jobs(*stage) for stage in stages):
        rate = args.lr if args.lr is not None else tuned(job, store, bench)
        store.run(job._replace(lr=rate), bench)
    print(table(store.known))


class Store:
    """The runs that are known, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, job: Job, bench: Bench) -> dict[str, Any]:
        """The result of a job, which is run if it is not known."""
        for run in self.known:
            if all(run.get(key, Job._field_defaults.get(key)) == value for key, value in job._asdict().items()):
                return run
        same = (
            BEFORE if (job.choice, job.hand_over) != ("tp_norm", "none") else [key for key in BEFORE if key != "seed"]
        )
        before = next((run for run in self.known if all(run[key] == getattr(job, key) for key in same)), None)
        removal = before["removal"] if before is not None and job.schedule == "once" else None
        run = job._asdict() | bench.run(job, removal)
        self.known.append(run)
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")
        print(f"{job}: {run['removal']:.2f} -> {run['after']:.2f}, {run['seconds']:.0f} s", flush=True)
        return run


def jobs(budgets: Sequence[str], steps: Sequence[int], methods: Sequence[str], seeds: Sequence[int]) -> Iterator[Job]:
    """All combinations that mean something, seed by seed."""
    for seed, budget, count, method in itertools.product(seeds, budgets, steps, methods):
        job = Job(budget, count, seed, *method.split("/"))
        if count or job.schedule == "once":
            yield job


def tuned(job: Job, store: Store, bench: Bench) -> float:
    """The rate that did best on held-out training images at 70 %, seed 0, after as many steps."""
    if not job.steps:
        return 0.0
    trials = [job._replace(budget="0.7", seed=0, lr=rate) for rate in RATES]
    return max(trials, key=lambda trial: store.run(trial, bench)["held_out"]).lr


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and deviation over seeds, right after removal -> at the end; a column for each budget and length.

    Of several rates the one with the most held-out images right.
    """
    columns = sorted({(run["budget"], run["steps"]) for run in runs})
    kinds = sorted({kind(run) for run in runs})
    rows = [
        ["schedule", "choice", "hand-over", "training", *(f"{budget}, {steps} steps" for budget, steps in columns)],
        ["---"] * 4 + ["---:"] * len(columns),
    ]
    for one in kinds:
        cells = []
        for column in columns:
            found = best_rate([run for run in runs if kind(run) == one and (run["budget"], run["steps"]) == column])
            shown = spread(found, "removal") + (f" -> {spread(found, 'after')}" if column[1] else "")
            cells.append(f"{shown} ({mean(run['macs'] for run in found):.2f})" if found else "-")
        rows.append([*one, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def kind(run: dict[str, Any]) -> tuple[str, str, str, str]:
    """The row that a run is in."""
    return run["schedule"], run["choice"], run["hand_over"], run.get("training", "sgd")


def best_rate(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with the rate that had the most held-out images right."""
    rates = {run["lr"] for run in runs}
    judged = {rate: mean(run.get("held_out", 0) for run in runs if run["lr"] == rate) for rate in rates}
    return [run for run in runs if run["lr"] == max(judged, key=lambda rate: judged[rate])]


def spread(runs: list[dict[str, Any]], key: str) -> str:
    values = [run[key] for run in runs]
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "") if values else "-"


if __name__ == "__main__":
    main()
