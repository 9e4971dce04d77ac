"""Bypass against going on and a lowered learning rate, over seeds: `python benchmarks/bypass.py [SEEDS]`.

Each seed trains the stalled digits MLP anew (recipes/train/digits_mlp_stalled.yaml) and runs `extcon bypass --force`
on it. Prints one JSON document. It runs no other problem and none of the paper's recipes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from extcon_cli.pipelines.bypass import bypass
from extcon_cli.pipelines.train import train
from extcon_cli.recipe.load import resolve


def one(seed: int, folder: Path) -> dict[str, object]:
    """Figures of one seed."""
    recipe = resolve("train", recipe="train/digits_mlp_stalled", overrides=[f"seed={seed}"]).recipe
    stalled, output = folder / f"{seed}.safetensors", folder / f"{seed}.out.safetensors"
    train(recipe, checkpoint=None, output=stalled, device="cpu")
    found = bypass(stalled, recipe, output=output, device="cpu", go_on=True)
    return {"seed": seed, **{key: found[key] for key in ("validation", "verdict", "diagnosis", "certificate")},
            "accuracy": [found[side]["metrics"]["accuracy"] for side in ("before", "after")]}  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [one(seed, Path(folder)) for seed in range(int((sys.argv[1:] or ["10"])[0]))]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
