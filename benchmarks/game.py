"""opt_2 as a game: the weight of the comeback constraint as a player that maximises what the parameters minimise.

    python benchmarks/game.py [SEEDS] [--problem mlp|eggholder]

The value of the game is L + gamma ||A D W|| (||D|| in the relaxed form). The players take turns: after each step of the
parameters gamma climbs along its own gradient, which is the norm itself. So the weight grows fast while D is far from
home and stands still where it has come back. Two ways for the parameters: the gradient of the whole value, as the
paper's penalty does, and a gradient step of L with a proximal one of gamma ||D||. All seeds are trained in one
(stack.py) and only `diag` is contracted; `radius`, `proximal` and `mirror` stand beside it.

Prints one JSON document: for each way of contracting how many seeds missed, the steps to contract, the training loss
that opt_2 gave up (its last twentieth against that of opt_1), and the gain in validation loss over going on.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from unittest import mock

import bypass as over_seeds
import stack
import torch
from torch import nn

from extcon_cli.bypass.contraction import ContractionSchedule, comeback
from extcon_cli.bypass.strategies import diagonal

RATES = (0.5, 5.0)
"""Of gamma's steps."""
PHASES = 400, 200, 400
"""Steps of opt_1, opt_2 and train_3."""


def game(rate: float) -> type[ContractionSchedule]:
    """A contraction whose weight climbs by `rate` times the norm that it weighs."""

    class Game(ContractionSchedule):
        @torch.no_grad()
        def step(self, lr: float, loss: float = 0.0) -> None:
            sites = [self.extended.sites[index] for index in self.open]
            self.gamma = rate * sum(float(comeback(self.extended, site)) for site in sites)
            super().step(lr, loss)

    return Game


@cache
def stalled(problem: str, seeds: int) -> list[nn.Module]:
    """The model of each seed before it is bypassed."""
    return stack.stalled(over_seeds.recipes(problem, 0, [])[0], seeds)


def contracted(problem: str, seeds: int, method: str, rate: float | None) -> list[dict[str, Any]]:
    """The documents of all seeds."""
    way = "mirror" if method == "mirror" else "diag"
    overrides = [f"bypass.extensions=[{way}]", *([] if way == "mirror" else [f"bypass.opt_2.method={method}"])]
    lengths = [
        f"bypass.{name}.steps={steps}" for name, steps in zip(("opt_1", "opt_2", "train_3"), PHASES, strict=True)
    ]
    _, recipe = over_seeds.recipes(problem, 0, [*overrides, *lengths, "bypass.controls=[]"])
    with mock.patch.object(diagonal, "ContractionSchedule", game(rate) if rate is not None else ContractionSchedule):
        return stack.compare(recipe, copy.deepcopy(stalled(problem, seeds)))


def line(documents: Sequence[Mapping[str, Any]], way: str) -> dict[str, Any]:
    """What the seeds say together."""
    opt_1, opt_2, _ = PHASES
    there = [d for d in documents if way in d["validation"]]
    given_up = []
    for document in there:
        history = next(phase for phase in document["history"]["phases"] if phase["phase"] == way)
        losses = dict(zip(history["steps"], history["loss"], strict=True))
        ends = [
            statistics.mean(losses[step] for step in losses if end - width < step <= end)
            for end, width in ((opt_1, opt_1 / 20), (opt_1 + opt_2, opt_2 / 20))
        ]
        given_up.append(ends[1] - ends[0])
    took = [d["certificate"][way]["steps_to_contract"] for d in there]
    return {
        "missed": len(documents) - len(there),
        "steps": [min(took), statistics.median(took), max(took)] if took else None,
        "loss given up": spread(given_up),
        "gain over going on": over_seeds.gains(documents, way, "baseline"),
    }


def spread(values: Sequence[float]) -> str | None:
    if not values:
        return None
    return f"{statistics.mean(values):+.4f} +- {statistics.stdev(values) if len(values) > 1 else 0.0:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="?", type=int, default=10)
    parser.add_argument("--problem", choices=("mlp", "eggholder"), default="mlp")
    given = parser.parse_args()
    plain = [(method, None) for method in ("radius", "proximal", "mirror")]
    table = {}
    for method, rate in [*plain, *((method, rate) for method in ("proximal", "penalty") for rate in RATES)]:
        name = method if rate is None else f"game, {method}, rate {rate:g}"
        documents = contracted(given.problem, given.seeds, method, rate)
        table[name] = line(documents, "mirror" if method == "mirror" else "diag")
        print(json.dumps({name: table[name]}), flush=True)


if __name__ == "__main__":
    main()
