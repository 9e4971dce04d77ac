"""The same pruning job with the ways of choosing replaced: `python benchmarks/prune_methods.py CKPT [--recipe R]`.

Every run goes through extcon's own pipeline, with the recipe's keys overridden; all methods take the same number of
training steps in all (scoring by Group Lasso or the race counts, frozen scoring passes do not), fine-tune alike, and
distil alike. One-shot methods set the decided filters to zero at once and spend the steps on fine-tuning.

Prints a Markdown table of test accuracy right after removal and after fine-tuning, mean and standard deviation over
seeds, in points. Results are kept in --results, a JSON file; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from extcon_cli.data.datasets import open_data
from extcon_cli.pipelines.prune import prune
from extcon_cli.recipe.load import resolve
from extcon_cli.recipe.schema import Recipe
from extcon_cli.training.optim import total_steps

SEQUENTIAL = "prune.compensate.hand_over=sequential"
ONE_SHOT, TRAINED = ("prune.bifurcate.method=none",), 100
METHODS: dict[str, tuple[str, ...]] = {
    "compensated, sequential, one-shot": ("prune.score.method=compensated", SEQUENTIAL, *ONE_SHOT),
    "BN magnitude, sequential, one-shot": ("prune.score.method=magnitude", SEQUENTIAL, *ONE_SHOT),
    "catalyst": ("prune.score.method=energy", "prune.bifurcate.method=flow", "prune.compensate.hand_over=local"),
    "catalyst, no handover": (
        "prune.score.method=energy",
        "prune.bifurcate.method=flow",
        "prune.compensate.enabled=false",
    ),
    "native race, flow": ("prune.score.method=race", "prune.bifurcate.method=flow", "prune.compensate.enabled=false"),
    "random, flow": ("prune.score.method=random", "prune.bifurcate.method=flow", "prune.compensate.enabled=false"),
    "energy, one-shot": ("prune.score.method=energy", "prune.compensate.enabled=false", *ONE_SHOT),
    "Taylor, one-shot": ("prune.score.method=taylor", "prune.compensate.enabled=false", *ONE_SHOT),
    "BN magnitude, one-shot": ("prune.score.method=magnitude", "prune.compensate.enabled=false", *ONE_SHOT),
    "Group Lasso, one-shot": ("prune.score.method=group_lasso", "prune.compensate.enabled=false", *ONE_SHOT),
    "random, one-shot": ("prune.score.method=random", "prune.compensate.enabled=false", *ONE_SHOT),
}
"""What each method overrides. Group Lasso and the race train a copy for TRAINED steps to score."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--recipe", help="default: the checkpoint's sidecar")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.3, 0.5, 0.7, 0.85])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=Path("prune_methods.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs: list[dict[str, Any]] = json.loads(args.results.read_text()) if args.results.exists() else []
    known = {(run["method"], run["ratio"], run["seed"]) for run in runs}
    for seed in range(args.seeds):
        for ratio in args.ratios:
            for method in args.methods:
                if (method, ratio, seed) not in known:
                    overrides = [*args.overrides, *METHODS[method], f"prune.ratio={ratio}", f"seed={seed}"]
                    runs.append({"method": method, "ratio": ratio, "seed": seed, **run(args, overrides)})
                    args.results.write_text(json.dumps(runs, indent=1))
                    print(
                        f"{method} {ratio} seed {seed}: {runs[-1]['removal']:.2f} {runs[-1]['after']:.2f}", flush=True
                    )
    print(table(runs, args.methods, args.ratios))


def run(args: argparse.Namespace, overrides: list[str]) -> dict[str, float]:
    """One job: test accuracy before, right after removal and after fine-tuning, in percent."""
    recipe = resolve("prune", recipe=args.recipe, checkpoint=args.checkpoint, overrides=overrides).recipe
    recipe = resolve(
        "prune", recipe=args.recipe, checkpoint=args.checkpoint, overrides=[*overrides, *same_length(recipe)]
    ).recipe
    with tempfile.TemporaryDirectory() as folder:
        result = prune(args.checkpoint, recipe, output=Path(folder, "pruned.safetensors"), device="cpu")
    return {
        "before": 100 * result.before.metrics["accuracy"],
        "removal": 100 * result.removal.metrics_after_removal["accuracy"],
        "after": 100 * result.after.metrics["accuracy"],
        "params": result.after.size.params / result.before.size.params,
        "macs": result.after.size.macs / result.before.size.macs,
    }


def same_length(recipe: Recipe) -> list[str]:
    """Overrides that give every method the recipe's total of bifurcation and fine-tuning steps."""
    data = open_data(recipe.data, recipe.task, input_shape=recipe.model.input_shape)
    epoch = len(data.train_loader(device="cpu", seed=0))
    shrinking, tuning = (total_steps(phase, epoch) for phase in (recipe.prune.bifurcate, recipe.prune.finetune))
    scoring = TRAINED if recipe.prune.score.method in ("race", "group_lasso") else 0
    freed = shrinking if recipe.prune.bifurcate.method == "none" else 0
    return [
        f"prune.score.steps={TRAINED}",
        f"prune.bifurcate.steps={shrinking}",
        f"prune.finetune.steps={max(1, tuning + freed - scoring)}",
    ]


def table(runs: list[dict[str, Any]], methods: list[str], ratios: list[float]) -> str:
    """Mean and standard deviation over seeds: after removal -> after fine-tuning."""
    rows = [["method", *(f"{ratio:.0%}" for ratio in ratios)], ["---", *(["---:"] * len(ratios))]]
    for method in methods:
        cells = []
        for ratio in ratios:
            found = [r for r in runs if r["method"] == method and r["ratio"] == ratio]
            cells.append(f"{spread(found, 'removal')} -> {spread(found, 'after')}" if found else "-")
        rows.append([method, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def spread(runs: list[dict[str, Any]], key: str) -> str:
    values = [run[key] for run in runs]
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
