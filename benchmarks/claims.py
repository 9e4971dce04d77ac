"""What the Catalyst papers claim of their choice, checked beside Group Lasso, the norm and extcon's own scores.

    python benchmarks/claims.py sample_models/digits_resnet.pt

On the sample network and its digits, half of the 224 inner filters of its blocks go. Each way of choosing is asked
again with another seed (other batches, drawn labels, order of training), with weights that 1 % of noise has moved, and
on a network in which half of the filters, drawn at random, are scaled by 0.1 and what reads them by 10, which changes
no output. Printed for each:

    seeds, noise, scaled   share of the removed filters that are removed again; 0.5 is chance
    size                   how often a removed filter has a smaller norm than a kept one of its group; 0.5 is no bias
    margin                 after training: the largest norm of those that go / the smallest of those that stay, each
                           over the mean of its group at first

`race` is the papers' own: |d_i| = ||F_i||, descent of the loss + lambda sum |d_i| ||F_i||; the filters with the
smallest ||F_i|| / |d_i| go. The flow takes as many steps to the decision of the compensated saliency.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extcon_cli.catalyst import scores
from extcon_cli.catalyst.bifurcation import Flow
from extcon_cli.catalyst.filters import Filters, norms
from extcon_cli.catalyst.regulariser import Race, group_lasso
from extcon_cli.catalyst.saliency import compensated, drawn_labels
from extcon_cli.catalyst.target import decide
from extcon_cli.channels import Channels, channel_groups
from extcon_cli.checkpoint.zoo import ZOO
from extcon_cli.data.datasets import Data, open_data
from extcon_cli.recipe.schema import DataSpec

BATCH = 64
METHODS = ("compensated", "energy", "norm", "race", "group_lasso")


class Bench:
    """The network, the digits, and the filters that may go."""

    def __init__(self, checkpoint: Path, steps: int, strength: float) -> None:
        self.steps, self.strength = steps, strength
        self.original: nn.Module = ZOO["digits_resnet"].build()
        self.original.load_state_dict(torch.load(checkpoint))
        self.original.eval()
        self.data: Data = open_data(DataSpec(dataset="digits"), "classification", seed=0)
        self.channels: Channels = channel_groups(self.original, (torch.zeros(2, 1, 8, 8),))
        self.filters = Filters.of(group for group in self.channels.groups if group.name.endswith("conv1"))

    def batches(self, seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
        loader = self.data.train_loader(device="cpu", seed=seed, batch_size=BATCH)
        return [loader.batch(step) for step in range(count)]

    def train(
        self, model: nn.Module, seed: int, penalty: Callable[[], Tensor] | None, after: Callable[[float], object]
    ) -> None:
        """SGD with the regulariser, as the recipes do it."""
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        model.train()
        for x, y in self.batches(seed, self.steps):
            loss = F.cross_entropy(model(x), y)
            (loss if penalty is None else loss + penalty()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            after(0.01)
        model.eval()

    def scored(self, method: str, original: nn.Module, seed: int) -> tuple[Tensor, nn.Module]:
        """What each filter is worth, and the network that the choice leaves."""
        model, filters = copy.deepcopy(original), self.filters
        if method == "norm":
            return scores.magnitude(model, filters), model
        if method == "energy":
            batches = self.batches(seed, 100)
            return scores.energy(
                model, filters, batches, lambda batch: F.cross_entropy(model(batch[0]), batch[1])
            ), model
        if method == "compensated":
            generator = torch.Generator().manual_seed(seed)
            inputs = [(x,) for x, _ in self.batches(seed, 8)]
            return compensated(model, self.channels, filters, inputs, lambda z: drawn_labels(z[0], generator)), model
        if method == "race":
            race = Race.begin(model, filters, c=1.0, strength=self.strength)
            self.train(model, seed, race.penalty, race.step)
            return race.scores(), model
        self.train(model, seed, lambda: self.strength * group_lasso(model, filters), lambda lr: None)
        return scores.magnitude(model, filters), model

    def decided(self, worth: Tensor, method: str) -> Tensor:
        """Half of the filters: (n,)."""
        values = worth if method == "compensated" else scores.normalised(worth, self.filters)
        return decide(values, self.filters, 0.5)

    def smaller(self, decided: Tensor) -> float:
        """Of all pairs of a removed and a kept filter of a group, the share in which the removed one is smaller."""
        sizes, pairs, won = norms(self.original, self.filters), 0, 0.0
        for span in self.filters.spans():
            gone, kept = sizes[span][decided[span]], sizes[span][~decided[span]]
            pairs += len(gone) * len(kept)
            won += float((gone[:, None] < kept).sum())
        return won / pairs

    def margin(self, model: nn.Module, decided: Tensor) -> float:
        """The largest norm of those that go / the smallest of those that stay, over their groups' first means."""
        mean = torch.cat([norms(self.original, self.filters)[span].mean().expand(span.stop - span.start)
                          for span in self.filters.spans()])  # fmt: skip
        sizes = norms(model, self.filters) / mean
        return float(sizes[decided].max() / sizes[~decided].min())

    @torch.no_grad()
    def scaled(self) -> nn.Module:
        """Half of the filters a tenth as large, what reads them ten times: the same outputs."""
        model = copy.deepcopy(self.original)
        generator = torch.Generator().manual_seed(9)
        for group in self.filters.groups:
            factor = torch.where(torch.rand(group.size, generator=generator) < 0.5, 0.1, 1.0)
            block = model.get_submodule(group.name.rpartition(".")[0])
            for tensor in (block.bn1.weight, block.bn1.bias):
                tensor.mul_(factor)
            block.conv2.weight.div_(factor.view(1, -1, 1, 1))
        x = self.batches(5, 1)[0][0]
        assert torch.allclose(model(x), self.original(x), rtol=1e-3, atol=1e-3)
        return model

    @torch.no_grad()
    def noisy(self) -> nn.Module:
        """Every weight moved by 1 % of its size, at random."""
        model = copy.deepcopy(self.original)
        generator = torch.Generator().manual_seed(8)
        for tensor in model.parameters():
            tensor.mul_(1 + 0.01 * torch.randn(tensor.shape, generator=generator))
        return model


def again(first: Tensor, second: Tensor) -> float:
    """The share of the removed filters that are removed again."""
    return float((first & second).sum() / first.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200, help="of training with a regulariser, and of the flow")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--strength", type=float, default=0.1, help="lambda")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(args.checkpoint, args.steps, args.strength)
    print("| choice | seeds | noise | scaled | size | margin |\n|---|---:|---:|---:|---:|---:|")
    for method in args.methods:
        found = [bench.scored(method, bench.original, seed) for seed in args.seeds]
        masks = [bench.decided(worth, method) for worth, _ in found]
        seeds = [again(a, b) for a, b in itertools.combinations(masks, 2)]
        others = [bench.decided(bench.scored(method, model, 0)[0], method) for model in (bench.noisy(), bench.scaled())]
        figures = [sum(seeds) / len(seeds), *(again(masks[0], mask) for mask in others), bench.smaller(masks[0])]
        margin = f"{bench.margin(found[0][1], masks[0]):.2f}" if method in ("race", "group_lasso") else "-"
        print(f"| {method} | {' | '.join(f'{figure:.2f}' for figure in figures)} | {margin} |", flush=True)
        if method == "compensated":
            model = copy.deepcopy(bench.original)
            flow = Flow(model, bench.filters, masks[0], steps=args.steps // 2)
            bench.train(model, 0, None, flow.step)
            print(f"| the same, along the flow | - | - | - | - | {bench.margin(model, masks[0]):.2f} |", flush=True)


if __name__ == "__main__":
    main()
