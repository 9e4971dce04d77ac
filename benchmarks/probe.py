"""How well the probe of `extcon bypass` predicts what an extension gains in a whole run, and what it costs.

    python benchmarks/probe.py [SEEDS] --fashion fashion_mnist.npz [--steps 25,50] [--full 400]

Stalled nets of three kinds (6 seeds each by default), made as in diagnosis.py: most units dead, some units dead, and an
ordinary plateau. Each is probed with `revive`, `mirror` and `widen` for so many steps, and followed with each for
`--full` steps; every gain is that in validation loss over going on for as many.

Prints one JSON document: for each kind, for all of them, and for each length the rank correlation of the probed and the
full gains, precision and recall of "gains over 5 %" (probed: and twice its standard error), how often the extension
that the probe puts first is within two points of the best, and the probe's steps as a share of a run's: going on, a
control and two strategies.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from diagnosis import Case, arrays, recipe, train

from extcon_cli.bypass.strategies import BASELINE
from extcon_cli.pipelines.bypassing.probe import Probe, Trial, gains
from extcon_cli.pipelines.bypassing.stalled import stalled_model
from extcon_cli.pipelines.running.prepare import Prepared
from extcon_cli.report.results.bypass import ProbeGain
from extcon_cli.training.device import create_accelerator

WAYS = ("revive", "mirror", "widen")
CASES = {
    "most units dead": Case("dead units", "digits", 1400, (16,), 0.001, 60, killing=0.2),
    "some units dead": Case("some dead", "digits", 1400, (32,), 0.001, 60, killing=0.05),
    "ordinary plateau": Case("plateau", "fashion", 4000, (32,), 0.001, 30),
}
GAIN = 0.05
TRAININGS = 4


def tried(prepared: Prepared, steps: int) -> dict[str, ProbeGain]:
    """What each extension gains over going on in a run of so many steps; those that are refused are left out."""
    spec = prepared.recipe.bypass
    probe = {"probe": spec.probe.model_copy(update={"steps": steps})}
    short = prepared.recipe.model_copy(update={"bypass": spec.model_copy(update=probe)})
    module = prepared.module.eval()
    found = Probe(stalled_model(replace(prepared, module=module, recipe=short), create_accelerator("cpu", "no")))
    found.follow(BASELINE, *WAYS)
    base = found.trials[BASELINE]
    assert isinstance(base, Trial)
    return {name: row for name, row in gains(base, found.trials).items() if name != BASELINE}


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, of numbers without ties."""
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def predicts(
    probed: Sequence[Mapping[str, ProbeGain]], full: Sequence[Mapping[str, ProbeGain]], steps: int, length: int
) -> dict[str, Any]:
    """Of one kind: each model's gains in the probe beside those in full."""
    pairs = [(short[way], long[way]) for short, long in zip(probed, full, strict=True) for way in short if way in long]
    told = [short.gain >= max(GAIN, 2 * short.error) for short, _ in pairs]
    true = [long.gain >= GAIN for _, long in pairs]
    both = sum(a and b for a, b in zip(told, true, strict=True))
    firsts = [
        max(row.gain for row in long.values()) - long[max(short, key=lambda way, s=short: s[way].gain)].gain
        for short, long in zip(probed, full, strict=True)
        if short and long
    ]
    tried_ways = max(len(short) for short in probed)
    return {
        "pairs": len(pairs),
        "rank correlation": correlation(*([row.gain for row in rows] for rows in zip(*pairs, strict=True))),
        "gains over 5 %": sum(true),
        "precision": both / sum(told) if any(told) else None,
        "recall": both / sum(true) if any(true) else None,
        "first within 2 points": f"{sum(gap <= 0.02 for gap in firsts)} of {len(firsts)}",
        "share of the run": steps * (2 + tried_ways) / (TRAININGS * length),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="?", type=int, default=6)
    parser.add_argument("--fashion", type=Path, required=True)
    parser.add_argument("--steps", default="25,50")
    parser.add_argument("--full", type=int, default=400)
    given = parser.parse_args()
    lengths = [int(steps) for steps in given.steps.split(",")]
    fashion = np.load(given.fashion)
    fashion = {key: fashion[key] for key in ("x_train", "y_train")}
    document: dict[str, Any] = {}
    every: list[dict[str, ProbeGain]] = []
    short: dict[int, list[dict[str, ProbeGain]]] = {steps: [] for steps in lengths}
    for kind, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            models = train(recipe(case, arrays(case, fashion, Path(folder))), range(given.seeds))
        full = [tried(model, given.full) for model in models]
        every += full
        document[kind] = {"full": {way: [row[way].gain for row in full if way in row] for way in WAYS}}
        for steps in lengths:
            probed = [tried(model, steps) for model in models]
            short[steps] += probed
            document[kind][f"{steps} steps"] = predicts(probed, full, steps, given.full)
    document["all kinds"] = {f"{steps} steps": predicts(short[steps], every, steps, given.full) for steps in lengths}
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
