"""Exact removal on many architectures: seconds, coverage, exactness, beside Torch-Pruning and simplify in one run.

    python benchmarks/removal.py                                  # every model that is installed
    python benchmarks/removal.py torchvision:resnet18 timm:'*nfnet*' --json removal.json
    python benchmarks/removal.py 'transformers:*' --alone         # without the others

Nothing is downloaded: weights are random, and what starts as all zeros or all ones is drawn anew, so that constants
show. Of every prunable group a random half is silenced and removed; outputs are compared in float32 and float64, at
two batch sizes and, where the model takes them, two resolutions; then the same with other shares of the groups and
half of the dead channels at a constant. Each model runs in a process of its own.

A removal that the product would write is held to an independent comparison besides. Of each family is counted how many

    exact      lost channels, and both say that no output moved
    frozen     keep all: no group can go
    refused    cannot be traced, or are not written since the certificate is not exact
    wrong      have an exact certificate, and an output moved all the same
    crashed    end in any other error, or not in the time given

The models stand in removal_models.py, removal_transformers.py and removal_nets.py; Torch-Pruning and simplify, where
they are installed, are asked for the same in removal_others.py.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import resource
import signal
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import removal_models
import removal_nets
import removal_transformers
import torch
from removal_models import Builder, image, installed
from removal_others import parameters, simplified, torch_pruning
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from extcon_cli.channels import Channels, coverage, named_tensors, plan_removal, remove, zero_channels
from extcon_cli.channels.analysis.groups import analyse
from extcon_cli.channels.analysis.trace import trace
from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.dry_run import dry_run
from extcon_cli.channels.preserving import duplicate
from extcon_cli.channels.removal.certificate import certify
from extcon_cli.errors import GateError, TraceError

OUTCOMES = ("exact", "frozen", "refused", "wrong", "crashed")
OTHERS = {"torch_pruning": torch_pruning, "simplify": simplified}


def models() -> dict[str, Builder]:
    """Every model by 'family:name'."""
    return removal_models.models() | removal_transformers.models() | removal_nets.models()


@torch.no_grad()
def draw(module: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters that start as one number get many, and batch norms statistics unlike those they start with."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            if parameter.flatten()[0] == 0:
                parameter.normal_(0.0, 0.1)
            else:  # a layer scale of 1e-6 would hide its block
                parameter.uniform_(0.5, 1.5).mul_(1.0 if parameter.flatten()[0] > 0.1 else 0.1)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return module.eval()


def ours(module: nn.Module, example: Inputs) -> dict[str, Any]:
    """Seconds of each part, coverage, what is frozen, and the difference with every prunable group cut down."""
    start = time.perf_counter()
    graph = trace(module, example)
    traced = time.perf_counter()
    analysed = analyse(module, graph)
    grouped = time.perf_counter()
    channels = dry_run(module, analysed, example)
    tried = time.perf_counter()
    found = {
        "trace": traced - start,
        "groups": grouped - traced,
        "trial": tried - grouped,
        "coverage": coverage(module, channels),
        "prunable": sum(group.prunable for group in channels.groups),
        "frozen": dict(Counter(group.reason for group in channels.groups if not group.prunable).most_common()),
    }
    zeros = removed(module, channels, example, halved)
    constants = removed(module, channels, example, silenced_to_constants)
    worst = {key: max(zeros[key], constants[key], key=lambda gap: -1 if gap is None else gap) for key in MOVED}
    return {**found, **zeros, **worst, "exact": zeros["exact"] and constants["exact"]}


MOVED = ("single", "double", "independent")


def removed(
    module: nn.Module, channels: Channels, example: Inputs, silence: Callable[[nn.Module, Channels], None]
) -> dict[str, Any]:
    """Silence, remove, and say by how much outputs moved; `independent` is not measured with the product's own code."""
    before = duplicate(module)
    silence(before, channels)
    after = duplicate(before)
    begin = time.perf_counter()
    removal = plan_removal(after, channels)
    remove(after, removal)
    seconds = time.perf_counter() - begin
    certificate = certify(before, after, removal, example)
    return {
        "removal": seconds,
        "gone": 1 - parameters(after) / parameters(module),
        "single": certificate.random.relative,
        "double": certificate.double.relative if certificate.double else None,
        "independent": moved(before, after, example),
        "exact": certificate.exact,
        "scale": certificate.random.scale,
    }


def halved(module: nn.Module, channels: Channels) -> None:
    """A random half of every prunable group at zero."""
    generator = np.random.default_rng(1)
    for group in channels.groups:
        if group.prunable:
            zero_channels(module, group, np.sort(generator.permutation(group.size)[: group.size // 2]))


@torch.no_grad()
def silenced_to_constants(module: nn.Module, channels: Channels) -> None:
    """A sixth to three quarters of every prunable group at zero, but for half of their biases and betas."""
    generator, tensors = np.random.default_rng(2), named_tensors(module)
    for group in channels.groups:
        if group.prunable:
            some = int(group.size * generator.choice([1 / 6, 1 / 4, 1 / 3, 1 / 2, 3 / 4]))
            dead = np.sort(generator.permutation(group.size)[:some])
            zero_channels(module, group, dead)
            for part in group.zeroing_slices:
                if part.parameter.endswith("bias"):
                    places = torch.from_numpy(part.index[dead[::2]].ravel())
                    tensors[part.parameter].index_fill_(part.dim, places, 0.4)


@torch.no_grad()
def moved(first: nn.Module, second: nn.Module, example: Inputs) -> float:
    """The largest difference in float32, on other inputs than a certificate's, as a share of its output's size."""
    torch.manual_seed(77)

    def drawn(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return 2 * torch.randn_like(value) if floating and value.dim() else value

    inputs, worst = tree_map(drawn, example), 0.0
    outputs = []
    for module in (first, second):
        torch.manual_seed(78)
        outputs.append(module(**inputs) if isinstance(inputs, dict) else module(*inputs))
    pairs = zip(*([leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)] for found in outputs), strict=True)
    for one, other in pairs:
        if not one.is_floating_point():
            worst = max(worst, float((one != other).double().mean()) if one.numel() else 0.0)
            continue
        usual = one.isfinite() & (one.abs() < 1e4)
        if not torch.equal(usual, other.isfinite() & (other.abs() < 1e4)):
            return float("inf")
        gap, size = (one - other)[usual].abs(), one[usual].abs()
        worst = max(worst, float(gap.max() / size.max()) if gap.numel() and gap.max() else 0.0)
    return worst


def _late(*_: object) -> None:
    raise TimeoutError("did not finish in the time given")


def measure(name: str, alone: bool, limit: int = 300) -> dict[str, Any]:
    """Both libraries on one model."""
    torch.manual_seed(0)
    module, example = models()[name]()
    draw(module)
    found: dict[str, Any] = {"model": name, "parameters": parameters(module)}
    others = {key: run for key, run in OTHERS.items() if not alone and installed(key)}
    for key, run in {"extcon": ours, **others}.items():
        signal.signal(signal.SIGALRM, _late)
        signal.alarm(limit)
        try:
            found[key] = run(module, example)
        except Exception as error:  # the line that stands in the table is what a user would see
            found[key] = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"}
            found[key] |= {
                "refused": isinstance(error, (TraceError, GateError)),
                "where": traceback.format_exc()[-1500:],
            }
        signal.alarm(0)
        found[key]["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def _child(name: str, alone: bool, limit: int, pipe: Any) -> None:
    pipe.send(measure(name, alone, limit))


def warm_up(alone: bool) -> None:
    """Both libraries once on next to nothing: what they import on first use is nobody's time."""
    module, example = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)), image(4)
    ours(module, example)
    if not alone and installed("torch_pruning"):
        torch_pruning(module, example)


def in_a_process(name: str, alone: bool, limit: int) -> dict[str, Any]:
    """Measure in a process of its own: a crash or a model without end is one line of the table."""
    context = multiprocessing.get_context("fork")
    mine, yours = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, alone, limit, yours))
    process.start()
    yours.close()
    try:
        return mine.recv() if mine.poll(3 * limit) else {"model": name, "extcon": {"error": "was stopped"}}
    except EOFError:
        return {"model": name, "extcon": {"error": "the process died"}}
    finally:
        process.kill()
        process.join()


def outcome(mine: dict[str, Any]) -> str:
    """One of OUTCOMES. Rounding on other inputs may exceed the bar, ten times the bar is a mistake."""
    if "error" in mine:
        return "refused" if mine.get("refused") else "crashed"
    if not mine["exact"]:
        return "refused"
    if mine["independent"] > 1e-4:
        return "wrong"
    return "exact" if mine["prunable"] else "frozen"


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    mine, other = found["extcon"], found.get("torch_pruning", {})
    if "error" in mine:
        return f"{found['model']:44} {outcome(mine)}: {mine['error']}"
    spent = sum(mine[key] for key in ("trace", "groups", "removal"))
    double = "-" if mine["double"] is None else f"{mine['double']:.0e}"
    text = (
        f"{found['model']:44} {found['parameters'] / 1e6:7.2f} M  trace {mine['trace']:5.2f} "
        f"groups {mine['groups']:5.2f} trial {mine['trial']:5.2f} removal {mine['removal']:5.2f} s  "
        f"covers {mine['coverage']:6.1%}  {mine['single']:.0e} {double} {outcome(mine)}"
    )
    if "error" in other:
        text += f" | {other['error'][:80]}"
    elif other:
        text += (
            f" | x{spent / other['seconds']:.2f} covers {other['coverage']:6.1%} {other['single']:.0e} "
            f"{'exact' if other['exact'] else 'not exact'}"
        )
    third = found.get("simplify", {})
    if "gone" in third:
        text += f" | simplify x{spent / third['seconds']:.2f} gone {third['gone']:.1%} of {mine['gone']:.1%}"
        text += f" {third['single']:.0e}"
    return text


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """How each family came out, then the figures over all models."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["model"].partition(":")[0], []).append(row)
    yield f"| family | tried | {' | '.join(OUTCOMES)} | worst float32 | float64 | coverage: median, least |"
    yield "|---|" + "---:|" * (len(OUTCOMES) + 4)
    for family, members in [*families.items(), ("all", rows)]:
        yield f"| {family} | {len(members)} | {' | '.join(_figures(members))} |"
    done = [row for row in rows if "error" not in row["extcon"]]
    if done:
        yield f"highest peak {max(row['extcon']['peak'] for row in done):.1f} GiB"
    both = [row for row in done if row.get("torch_pruning") and "error" not in row["torch_pruning"]]
    if both:
        spent = [sum(row["extcon"][key] for key in ("trace", "groups", "removal")) for row in both]
        ratios = [mine / row["torch_pruning"]["seconds"] for mine, row in zip(spent, both, strict=True)]
        yield f"time against Torch-Pruning: median x{statistics.median(ratios):.2f}, worst x{max(ratios):.2f}"
        exact = sum(row["torch_pruning"]["exact"] for row in both)
        yield f"Torch-Pruning: {exact} exact, {len(both)} run to the end, of {len(rows)}"
        less = [row["model"] for row in both if row["extcon"]["coverage"] < row["torch_pruning"]["coverage"] - 0.005]
        third = [row["simplify"] for row in rows if "simplify" in row]
        yield f"simplify: {sum(row.get('exact', False) for row in third)} exact of {len(third)}"
        yield f"covers less than Torch-Pruning: {', '.join(less) or 'none'}"


def _figures(rows: list[dict[str, Any]]) -> Iterator[str]:
    counts = Counter(outcome(row["extcon"]) for row in rows)
    yield from (f"{counts[name]}" for name in OUTCOMES)
    done = [row for row in rows if "error" not in row["extcon"]]
    if not done:
        yield from ("-", "-", "-")
        return
    for key in ("single", "double"):
        yield f"{max(row['extcon'][key] or 0.0 for row in done):.1e}"
    least = min(done, key=lambda row: row["extcon"]["coverage"])
    median = statistics.median(row["extcon"]["coverage"] for row in done)
    name = least["model"].partition(":")[2]
    yield f"{median:.1%}, {least['extcon']['coverage']:.1%} ({name})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="models, e.g. 'torchvision:resnet*'")
    parser.add_argument("--alone", action="store_true", help="without the other libraries")
    parser.add_argument("--limit", type=int, default=300, help="seconds for one model and library")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is asked for; if something were, it would show
    names = [name for name in models() if any(fnmatch.fnmatch(name, pattern) for pattern in options.patterns)]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    warm_up(options.alone)
    rows = []
    for name in names:
        rows.append(in_a_process(name, options.alone, options.limit))
        print(line(rows[-1]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    print(*summary(rows), sep="\n")


if __name__ == "__main__":
    main()
