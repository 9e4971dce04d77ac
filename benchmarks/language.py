"""Pruning a language model without retraining: choices at equal parameters, by perplexity right after and after steps.

    python benchmarks/language.py corpus stdlib/
    extcon train --recipe train/stdlib_llama --set data.root=stdlib --out llama.safetensors
    python benchmarks/language.py compare llama.safetensors --calibrate valid.txt --measure test.txt --results out.jsonl

`corpus` gathers the sources of Python's standard library. `compare` takes a Llama or GPT-2 of transformers that reads
bytes. Every choice sees the same blocks of the calibration text, drawn by the seed, and none sees labels:

  ours          the compensated saliency and the sequential hand-over, over MLPs, heads and the stream: each layer its
                own width. `ours, uniform`: widths that config.json can say. `ours, no refit`: without the hand-over.
                `ours, shares`: layers compared by shares of what each is worth, not by losses.
  magnitude     ||F||_2 of a neuron's or head's weights; the same share of every layer
  random        chance; the same share of every layer
  wanda         sum_i |W_ij| ||X_j||_2 over the weights that read a neuron or head (Sun et al. 2023, of whole channels)
  slicegpt      the stream turned to its principal components, the last of them cut off (Ashkboos et al. 2024), its
                matrices on the residual connections counted (language_slices.py)

Perplexity is that of a byte. The steps have the original as the teacher, on the calibration text: KL of the next
byte's distribution, AdamW, a cosine from --lr. Results are appended to --results; what is there is not run again.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import math
import sysconfig
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from language_slices import sliced
from torch import Tensor, nn
from torch.nn import functional as F

import extcon_cli
from extcon_cli.catalyst.alike import Tie
from extcon_cli.catalyst.filters import Filters, scale
from extcon_cli.catalyst.hand_over import hand_over
from extcon_cli.catalyst.limits import Limits
from extcon_cli.catalyst.saliency import Compare, compensated, drawn_labels
from extcon_cli.catalyst.target import decide_within
from extcon_cli.channels import ChannelGroup, Channels, channel_groups, params_cost, remove_zeros
from extcon_cli.channels.modules import named_tensors
from extcon_cli.checkpoint.huggingface.uniform import roles

TOKENS, SCORED, FITTED, MEASURED, BATCH = 128, 128, 256, 128, 16
HELD_OUT = 0.02
"""Share of the files of the corpus that nothing is trained on."""
CHOICES = ("ours", "ours, uniform", "ours, no refit", "ours, shares", "wanda", "magnitude", "random", "slicegpt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    gather = commands.add_parser("corpus")
    gather.add_argument("folder", type=Path)
    other = commands.add_parser("compare")
    other.add_argument("checkpoint", type=Path)
    other.add_argument("--calibrate", type=Path, required=True, help="text, of which blocks are drawn")
    other.add_argument("--measure", type=Path, required=True, help="text, of which the first blocks are measured")
    other.add_argument("--results", type=Path, required=True)
    other.add_argument("--ratios", nargs="+", type=float, default=[0.1, 0.2, 0.3])
    other.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    other.add_argument("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    other.add_argument("--steps", type=int, default=200)
    other.add_argument("--lr", type=float, default=5e-4)
    args = parser.parse_args()
    if args.command == "corpus":
        corpus(args.folder)
    else:
        compare(args)


def corpus(folder: Path) -> None:
    """train.txt and test.txt of the standard library's sources, without its tests."""
    home = Path(sysconfig.get_paths()["stdlib"])
    texts: dict[str, list[str]] = {"train": [], "test": []}
    for file in sorted(home.rglob("*.py")):
        place = file.relative_to(home)
        if {"site-packages", "test", "tests", "idle_test"} & set(place.parts):
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        drawn = int.from_bytes(hashlib.sha256(place.as_posix().encode()).digest()[:4], "big") / 2**32
        texts["test" if drawn < HELD_OUT else "train"].append(text)
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in texts.items():
        (folder / f"{name}.txt").write_text("\n".join(parts), encoding="utf-8")


def compare(args: argparse.Namespace) -> None:
    """All runs that are not among the results, then the table."""
    known = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    bench = Bench(args)
    keys = ("checkpoint", "calibrate", "seed", "ratio", "choice")
    done = {tuple(run[key] for key in keys): run for run in known if args.steps == 0 or "after" in run}
    for seed, ratio, choice in itertools.product(args.seeds, args.ratios, args.choices):
        job = (args.checkpoint.name, args.calibrate.name, seed, ratio, choice)
        if job in done:
            continue
        run = dict(zip(keys, job, strict=True)) | bench.run(seed, ratio, choice)
        known.append(run)
        with args.results.open("a") as file:
            file.write(json.dumps(run) + "\n")
        print(run, flush=True)
    table(known, args, bench)


def table(known: Sequence[dict[str, Any]], args: argparse.Namespace, bench: Bench) -> None:
    """A row a choice: means over seeds, and the worst distance from them."""
    found: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for run in known:
        if (run["checkpoint"], run["calibrate"]) == (args.checkpoint.name, args.calibrate.name):
            for when in ("at_once", "after"):
                if when in run:
                    found[run["choice"], run["ratio"], when].append(run[when])
    print(f"\nPerplexity of {args.measure.name} before: {bench.before:.3f}, {bench.params:,} parameters\n")
    heads = [f"{when} {ratio:.0%}" for when in ("right after", "after steps") for ratio in args.ratios]
    print("| choice | " + " | ".join(heads) + " |\n|---|" + "---:|" * len(heads))
    for choice in args.choices:
        cells = []
        for when, ratio in itertools.product(("at_once", "after"), args.ratios):
            each = found[choice, ratio, when]
            spread = max((abs(one - mean(each)) for one in each), default=0.0)
            cells.append(f"{mean(each):.2f} ± {spread:.2f}" if each else "-")
        print(f"| {choice} | " + " | ".join(cells) + " |")


def blocks(file: Path) -> Tensor:
    """A text as bytes in blocks: (N, TOKENS) int64."""
    ids = torch.tensor(list(file.read_bytes()))
    return ids[: len(ids) // TOKENS * TOKENS].view(-1, TOKENS)


@dataclass(frozen=True)
class Calibration:
    """What a choice may look at."""

    ids: Tensor  # (FITTED, TOKENS)
    seed: int

    @property
    def batches(self) -> list[tuple[Tensor]]:
        """Of the first SCORED blocks."""
        return [(part,) for part in self.ids[:SCORED].split(BATCH)]


class Bench:
    """One model on one pair of texts."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.text, self.test = blocks(args.calibrate), blocks(args.measure)[:MEASURED]
        self.original: Any = extcon_cli.load(args.checkpoint)
        self.original.config.use_cache = False
        self.original.requires_grad_(False)
        example = (self.text[:2],)
        self.channels = channel_groups(self.original, example)
        self.params = sum(parameter.numel() for parameter in self.original.parameters())
        self.before = perplexity(self.original, self.test)
        found = roles(self.original, self.channels, example) if "ours, uniform" in args.choices else ()
        self.worth: dict[tuple[int, bool, Compare], Tensor] = {}
        self.ties = [Tie(role.groups, role.steps, role.allowed) for role in found]

    def run(self, seed: int, ratio: float, choice: str) -> dict[str, Any]:
        """Choose, remove, measure; train with the teacher, measure."""
        began = time.process_time()
        torch.manual_seed(seed)
        drawn = torch.randperm(len(self.text), generator=torch.Generator().manual_seed(seed))[:FITTED]
        seen, budget = Calibration(self.text[drawn], seed), (1 - ratio) * self.params
        if choice == "slicegpt":
            small = sliced(self.original, [part for (part,) in seen.batches], budget)
        elif choice.startswith("ours"):
            compare: Compare = "shares" if "shares" in choice else "losses"
            small = self.ours(
                seen, budget, uniform="uniform" in choice, refit="no refit" not in choice, compare=compare
            )
        else:
            small = self.even(seen, budget, {"wanda": wanda, "magnitude": magnitude, "random": chance}[choice])
        params = sum(parameter.numel() for parameter in small.parameters())
        run: dict[str, Any] = {"params": params, "at_once": perplexity(small, self.test)}
        run["seconds"] = time.process_time() - began
        if self.args.steps:
            self.train(small, seed)
            run["after"] = perplexity(small, self.test)
        return run

    def ours(self, seen: Calibration, budget: float, *, uniform: bool, refit: bool, compare: Compare) -> nn.Module:
        """The way of `extcon prune` without training."""
        held = {id(group) for tie in self.ties for group in tie.groups}
        stays = [replace(group, reason="-") if uniform and id(group) not in held else group
                 for group in self.channels.groups]  # fmt: skip
        channels = replace(self.channels, groups=tuple(stays))
        filters = Filters.of(channels.groups)
        generator = torch.Generator().manual_seed(seen.seed)

        def loss(leaves: Sequence[Tensor]) -> Tensor:
            return drawn_labels(leaves[0], generator, dim=-1)

        if (key := (seen.seed, uniform, compare)) not in self.worth:  # the same for every ratio
            self.worth[key] = compensated(self.original, channels, filters, seen.batches, loss, compare=compare)
        worth = self.worth[key]
        cost = params_cost(self.original, channels).anchored(self.params)
        mask = decide_within(worth, filters, cost, budget, Limits(), self.ties if uniform else ())
        return self.cut(channels, filters, mask, seen if refit else None, others=not uniform)

    def even(
        self, seen: Calibration, budget: float, method: Callable[[nn.Module, Channels, Filters, Calibration], Tensor]
    ) -> nn.Module:
        """The smallest scores go, the same share of the neurons and of the heads of every layer; nothing is fitted."""
        stream = max(self.channels.groups, key=lambda group: len(group.slices))
        inner = tuple(replace(g, reason="-") if g is stream else g for g in self.channels.groups)
        channels = replace(self.channels, groups=inner)
        filters = Filters.of(channels.groups)
        worth = method(self.original, channels, filters, seen)
        cost = params_cost(self.original, channels).anchored(self.params)
        sizes = np.array([group.size for group in filters.groups])
        shares, neurons = np.arange(0, 1, 1e-3), sizes == sizes.max()
        counts = next(some for share in shares if cost.total(some := np.floor(share * sizes)) <= budget)
        while cost.total(counts - neurons) <= budget:  # a head more of every layer was more than was missing
            counts = counts - neurons
        mask = torch.zeros(len(filters), dtype=torch.bool)
        for span, count in zip(filters.spans(), counts.astype(int).tolist(), strict=True):
            mask[span][worth[span].argsort()[:count]] = True
        return self.cut(channels, filters, mask, None)

    def cut(
        self, channels: Channels, filters: Filters, mask: Tensor, fit: Calibration | None, *, others: bool = True
    ) -> nn.Module:
        """A copy without the filters of the mask (n,); fitted, where it may see text."""
        model = copy.deepcopy(self.original)
        scale(model, filters, torch.where(mask, 0.0, 1.0))
        if fit is not None:
            hand_over(model, self.original, channels, filters, mask, [(fit.ids,)])
        masks = filters.masks(mask)
        removal = remove_zeros(model, (self.text[:2],), channels=channels, decided=masks, others=others)
        return removal.module

    def train(self, small: nn.Module, seed: int) -> None:
        """Steps with the original as the teacher, in bfloat16 where numbers are multiplied."""
        small.train().requires_grad_(True)
        steps, generator = self.args.steps, torch.Generator().manual_seed(seed + 1000)
        optimizer = torch.optim.AdamW(small.parameters(), self.args.lr, weight_decay=0.0)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = (
                self.args.lr * min(1.0, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
            )
            (ids,) = (self.text[torch.randint(len(self.text), (BATCH,), generator=generator)],)
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    wanted = self.original(ids).logits.float().log_softmax(-1)
                given = small(ids).logits.float().log_softmax(-1)
            loss = F.kl_div(given.flatten(0, 1), wanted.flatten(0, 1), log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(small.parameters(), 1.0)
            optimizer.step()
        small.eval()


@torch.no_grad()
def perplexity(model: nn.Module, ids: Tensor) -> float:
    """exp of the mean negative log-likelihood of a byte, given those before it in its block."""
    total = 0.0
    for part in ids.split(BATCH):
        logits = model(part).logits[:, :-1].float()
        total += float(F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return math.exp(total / ids[:, 1:].numel())


@torch.no_grad()
def wanda(model: nn.Module, channels: Channels, filters: Filters, seen: Calibration) -> Tensor:
    """sum_i |W_ij| ||X_j||_2 over all weights W that read a filter: (n,)."""
    owners, tensors = filters.owners(channels), named_tensors(model)
    readers = {read.weight: owners[channels.ids_along(read.axis)] for read in channels.consumers}
    squares: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            squares[name] = squares.get(name, torch.zeros(())) + args[0].flatten(0, -2).square().sum(0)

        return add

    names = [name for name, owner in readers.items() if (owner >= 0).any()]
    handles = [model.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(hook(name)) for name in names]
    for inputs in seen.batches:
        model(*inputs)
    for handle in handles:
        handle.remove()
    total = torch.zeros(len(filters))
    for name in names:
        owner, dim = readers[name], next(read.dim for read in channels.consumers if read.weight == name)
        columns = tensors[name].abs().sum(1 - dim) * squares[name].sqrt()
        total.index_add_(0, owner[owner >= 0], columns[owner >= 0])
    return total


@torch.no_grad()
def magnitude(model: nn.Module, channels: Channels, filters: Filters, seen: Calibration) -> Tensor:
    """||F_i||_2 of all weights of a neuron or head, those that read it and those that make it: (n,)."""
    tensors = named_tensors(model)
    return torch.cat([squares(group, tensors).sqrt() for group in filters.groups])


def squares(group: ChannelGroup, tensors: dict[str, Tensor]) -> Tensor:
    """The squares of all weights of each channel of a group, added up: (channels,)."""
    total = torch.zeros(group.size)
    for part in group.slices:
        rows = tensors[part.parameter].movedim(part.dim, 0)
        total += rows.reshape(len(rows), -1).square().sum(1)[torch.from_numpy(part.index)].sum(1)
    return total


def chance(model: nn.Module, channels: Channels, filters: Filters, seen: Calibration) -> Tensor:
    """Uniform random numbers: (n,)."""
    return torch.rand(len(filters), generator=torch.Generator().manual_seed(seen.seed))


if __name__ == "__main__":
    main()
