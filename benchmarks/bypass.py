"""Bypass against going on, a lowered learning rate and moved weights, over seeds.

    python benchmarks/bypass.py PROBLEM [SEEDS] [--stacked] [--set KEY=VALUE] [--plot FILE.png]

PROBLEM: mlp (dead units), cnn (an ordinary plateau), eggholder. Each seed trains the stalled model anew by
recipes/train and runs `extcon bypass --ignore-probe` on it with the sample's recipe, every extension and both controls.
`--stacked` trains all seeds in one (torch.func), about ten times as fast, without the probe; for mlp and eggholder.
Prints one JSON document: of each strategy the relative gain in validation loss over going on and over the lowered
learning rate (mean, standard deviation, wins and losses beyond 0.05 %), misses, what embedding and projecting did to
the outputs, and in how many runs the result was worse than theta*. `--plot` draws loss, ||D||, ||A D W||, distance and
angle from theta* of going on, `diag` and `mirror`, as Fig. 3 to 5 of the paper do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import stack

from extcon_cli.bypass.strategies import CONTROLS, EXTENSIONS
from extcon_cli.events import ignore
from extcon_cli.pipelines.bypass import bypass
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import load, resolve
from extcon_cli.recipe.schema import Recipe
from extcon_cli.report.serialise import to_json

SAMPLES = Path(__file__).parents[1] / "sample_models"
PROBLEMS = {"mlp": "digits_mlp_stalled", "cnn": "digits_cnn_stalled", "eggholder": "eggholder_stalled"}
COLOURS = {"baseline": "0.6", "diag": "tab:purple", "mirror": "tab:orange"}
EVEN = 5e-4  # of the loss: neither won nor lost


def recipes(problem: str, seed: int, overrides: Sequence[str]) -> tuple[Recipe, Recipe]:
    """How the stalled model is made, and how it is bypassed."""
    name = PROBLEMS[problem]
    made = resolve("train", recipe=f"train/{name}", overrides=[f"seed={seed}"]).recipe
    both = ["bypass.controls=[lr_drop,cosine,perturbed]", f"seed={seed}", *overrides]
    return made, load(SAMPLES / f"{name}.yaml", overrides=both)


def one(problem: str, seed: int, folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The document of one seed."""
    made, recipe = recipes(problem, seed, overrides)
    stalled, output = folder / f"{seed}.safetensors", folder / f"{seed}.out.safetensors"
    train(made, checkpoint=None, output=stalled, device="cpu", emit=ignore)
    return to_json(bypass(stalled, recipe, output=output, device="cpu", ignore_probe=True))


def stacked(problem: str, seeds: int, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The documents of all seeds."""
    made, recipe = recipes(problem, 0, overrides)
    return stack.compare(recipe, stack.stalled(made, seeds))


def gains(documents: Sequence[Mapping[str, Any]], way: str, against: str) -> dict[str, Any] | None:
    """Relative gains in validation loss, over the seeds that have both."""
    found = [
        1 - document["validation"][way] / document["validation"][against]
        for document in documents
        if {way, against} <= set(document["validation"])
    ]
    if not found:
        return None
    return {
        "mean": statistics.mean(found),
        "deviation": statistics.stdev(found) if len(found) > 1 else 0.0,
        "wins": sum(gain > EVEN for gain in found),
        "losses": sum(gain < -EVEN for gain in found),
        "seeds": len(found),
    }


def summary(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the runs of one problem say together."""
    ways = (*EXTENSIONS, *CONTROLS)
    certificates = {way: [d["certificate"][way] for d in documents if way in d["certificate"]] for way in EXTENSIONS}

    def worst(way: str, figure: str) -> float:
        return max((c.get(figure, 0.0) for c in certificates[way]), default=0.0)

    return {
        "against going on": {way: gains(documents, way, "baseline") for way in ways},
        "against the lowered learning rate": {way: gains(documents, way, "lr_drop") for way in EXTENSIONS},
        "against the cosine restart": {way: gains(documents, way, "cosine") for way in EXTENSIONS},
        "chosen": [document["verdict"] for document in documents],
        "predicted": [d["diagnosis"]["predicted"] for d in documents if "diagnosis" in d],
        "worse than theta*": sum(d["validation"][d["verdict"]] > d["validation"]["theta*"] for d in documents),
        "missed": {way: sum(not c.get("contracted", True) for c in found) for way, found in certificates.items()},
        "embed difference": {way: worst(way, "embed_difference") for way in certificates},
        "proj difference": worst("diag", "projection_difference"),
        "mirror difference": worst("mirror", "mirror_difference"),
        "difference after contraction": {
            way: worst(way, "difference_after_contraction") for way in ("diag", "mirror", "widen")
        },
        "steps to contract": [c.get("steps_to_contract") for c in certificates["diag"]],
        "accuracy": [[d[side]["metrics"].get("accuracy") for side in ("before", "after")] for d in documents],
    }


def plot(documents: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Fig. 3 to 5 of the paper, one line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    titles = ("loss", "||D||", "||A D W||", "distance from theta*", "angle from theta* (degrees)")
    figure, axes = pyplot.subplots(1, len(titles), figsize=(20, 3.5), layout="constrained")
    for document in documents:
        for phase in document["history"]["phases"]:
            if (colour := COLOURS.get(phase["phase"])) is None:
                continue
            axes[0].plot(phase["steps"], phase["loss"], color=colour, alpha=0.4, lw=0.8)
            for column, axis in enumerate(axes[1:], start=1):
                axis.plot(*zip(*((row[0], row[column]) for row in phase["trace"]), strict=True),
                          color=colour, alpha=0.4, lw=0.8)  # fmt: skip
    axes[0].legend([Line2D([], [], color=colour) for colour in COLOURS.values()], COLOURS)
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
        axis.set_xlabel("steps from theta*")
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("seeds", nargs="?", type=int, default=10)
    parser.add_argument("--stacked", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    if given.stacked:
        documents = stacked(given.problem, given.seeds, given.overrides)
    else:
        with tempfile.TemporaryDirectory() as folder:
            documents = [one(given.problem, seed, Path(folder), given.overrides) for seed in range(given.seeds)]
    if given.plot:
        plot(documents, given.plot)
    print(json.dumps(summary(documents), indent=1))


if __name__ == "__main__":
    main()
