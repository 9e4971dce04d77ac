"""How many architectures are recognised by their tensors alone, and what happens to the others.

    python benchmarks/recognition.py [--timm 100] [--write docs/results/recognition.md]

Every model of torchvision and a random sample of timm's is built (without numbers) with 7 classes where it takes them,
and its state dict identified as a checkpoint named model.pt would be, and as one that carries the architecture's name.
"Recognised" is an architecture that computes the same; "asked" refuses and names those that fit; "with a warning" takes
the customary one and says that others fit. "Wrong" would be another function taken without a word.
"""

from __future__ import annotations

import argparse
import inspect
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torchvision
from torch import nn
from torchvision import models

from extcon_cli.checkpoint.identify import Candidate, identify, weightless


def torchvision_models() -> Iterator[tuple[str, nn.Module]]:
    """All but the quantized ones, whose tensors are those of the plain ones."""
    for name in models.list_models():
        if name.startswith("quantized_"):
            continue
        builder = models.get_model_builder(name)
        accepted = inspect.signature(builder).parameters
        fixed: dict[str, Any] = {key: None for key in ("weights", "weights_backbone") if key in accepted}
        if name in ("googlenet", "inception_v3"):
            fixed["init_weights"] = False
        if not name.startswith("raft"):
            fixed["num_classes"] = 7
        with nullcontext() if name.startswith("ssdlite") else weightless():  # that one runs itself while it is built
            yield f"torchvision:{name}", builder(**fixed)


def timm_models(number: int) -> Iterator[tuple[str, nn.Module]]:
    """A sample, the same each time."""
    for name in sorted(random.Random(0).sample(timm.list_models(), number)):
        try:
            with weightless():
                yield f"timm:{name}", timm.create_model(name, num_classes=7)
        except RuntimeError:  # it runs a part of itself while it is built
            yield f"timm:{name}", timm.create_model(name, num_classes=7)


def outcome(arch: str, found: list[Candidate]) -> str:
    """What became of one state dict."""
    fitting = [candidate for candidate in found if candidate.score == 1]
    if not fitting:
        return "not recognised"
    if len(fitting) > 1:
        return "asked" if arch in {candidate.arch for candidate in fitting} else "asked, without the right one"
    same = fitting[0].arch == arch or fitting[0].name == arch.partition(":")[2]
    if fitting[0].rivals:
        return "with a warning"
    return "recognised" if same else f"as {fitting[0].arch}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", type=int, default=100)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    rows, others = [], []
    for library, built in (("torchvision", torchvision_models()), ("timm", timm_models(given.timm))):
        plain, named, tried = Counter[str](), Counter[str](), 0
        for arch, module in built:
            state, name = module.state_dict(), arch.partition(":")[2]
            unnamed, told = outcome(arch, identify(state)), outcome(arch, identify(state, (name,)))
            plain[unnamed if not unnamed.startswith("as ") else "as one with the same modules"] += 1
            named[told if not told.startswith("as ") else "as one with the same modules"] += 1
            tried += 1
            if unnamed != "recognised":
                others.append((arch, unnamed, told))
        rows.append((library, "model.pt", tried, plain))
        rows.append((library, "the name in the file", tried, named))
    text = document(rows, others)
    print(text)
    if given.write:
        given.write.write_text(text + "\n", encoding="utf-8")


def document(rows: list[tuple[str, str, int, Counter[str]]], others: list[tuple[str, str, str]]) -> str:
    """The table, and all that were not recognised by their tensors alone."""
    kinds = sorted({kind for *_, counted in rows for kind in counted}, key=lambda kind: kind != "recognised")
    head = ["library", "checkpoint", "tried", *kinds]
    lines = [
        "# Results: architectures recognised",
        "",
        f"`python benchmarks/recognition.py` with torchvision {torchvision.__version__.partition('+')[0]} and timm "
        f"{timm.__version__}, 7 classes each.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for library, how, tried, counted in rows:
        lines.append(f"| {library} | {how} | {tried} | " + " | ".join(str(counted[kind]) for kind in kinds) + " |")
    lines += ["", "Not recognised by the tensors alone:", ""]
    lines += ["| architecture | model.pt | with its name |", "|---|---|---|"]
    lines += [f"| {arch} | {unnamed} | {told} |" for arch, unnamed, told in others]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
