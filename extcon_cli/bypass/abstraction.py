"""Self-abstraction (Cho et al. 2026, arXiv:2604.24313): simpler forms of a network guide its training.

Networks stand in the order of their complexity. The simplest is trained first; its hidden layers and its outputs guide
the next one, and so on to the network itself. Here the simpler ones are contractions of the network's own architecture:
fewer channels, by the removal that pruning uses, and fewer of the blocks that repeat. The paper leaves open how strong
guidance is and when it ends; what is chosen here stands below. This file trains nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from extcon_cli.channels import GroupStatus, channel_groups, named_tensor, plan_removal, remove
from extcon_cli.channels.compare import Inputs, call, runs
from extcon_cli.channels.modules import evaluating, is_norm
from extcon_cli.errors import UsageError

OUTPUTS = 0.5
"""Share of the loss that the guide's outputs have at the first step; the labels have the rest."""
HIDDEN = 1.0
"""Weight of the hidden guidance at the first step."""
FADING = 0.5
"""Share of the steps, the first, over which both weights fall to zero in a straight line."""
CONTAINERS = (nn.Sequential, nn.ModuleList)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]
"""Given a layer, its positional arguments and what it gives."""


class Skipped(nn.Module):
    """What stands in the place of a block that a simpler network does without."""

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        return x


def strength(done: int, steps: int) -> float:
    """What is left of the guidance after `done` of the steps: 1 at the start, 0 from `FADING` of the way on."""
    return max(0.0, 1.0 - done / max(1.0, FADING * steps))


def contracted(network: nn.Module, example: Inputs, share: float) -> nn.Module:
    """A simpler network of the same architecture: this share of its channels and of its repeated blocks.

    Names stay. What a layer of fewer inputs has left is scaled so that its sums are as large as before, so the weights
    are those of a new network where the network's are.

    Raises: UsageError (nothing of it can be contracted, or so much that it runs no more), TraceError.
    """
    simpler = copy.deepcopy(network)
    for name in _skippable(simpler, example, share):
        simpler.set_submodule(name, Skipped())
    _narrow(simpler, example, share)
    before, after = (sum(p.numel() for p in module.parameters()) for module in (network, simpler))
    if after >= before:
        raise UsageError(
            f"no simpler form ({share:g}) of this architecture: no channels of it can go, and no block repeats"
        )
    if not runs(simpler, example):
        raise UsageError(f"a form of {share:g} of this architecture does not run: ask for larger shares")
    return simpler


def _skippable(network: nn.Module, example: Inputs, share: float) -> list[str]:
    """Blocks to leave out: of those of one class in one container this share stays, evenly spaced, at least one.

    A block that changes the shape of what it is given always stays.
    """
    inside = {
        f"{name}.{key}".lstrip("."): child
        for name, parent in network.named_modules()
        if isinstance(parent, CONTAINERS)
        for key, child in parent.named_children()
    }
    keeps_shape: set[nn.Module] = set()

    def look(child: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if given and isinstance(given[0], Tensor) and isinstance(output, Tensor) and given[0].shape == output.shape:
            keeps_shape.add(child)

    _run(network, example, inside.values(), look)
    alike: dict[tuple[str, type[nn.Module]], list[str]] = {}
    for name, child in inside.items():
        if type(child) not in CONTAINERS and any(parameter.dim() > 1 for parameter in child.parameters()):
            alike.setdefault((name.rpartition(".")[0], type(child)), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    outer = tuple(f"{name}." for names in groups for name in names)
    left_out = []
    for names in (names for names in groups if not names[0].startswith(outer)):  # a block goes or stays as a whole
        free = [name for name in names if inside[name] in keeps_shape]
        fixed = len(names) - len(free)
        number = max(round(share * len(names)) - fixed, 0 if fixed else 1)
        stay = {free[place * len(free) // number] for place in range(number)}
        left_out += [name for name in free if name not in stay]
    return left_out


@torch.no_grad()
def _run(network: nn.Module, example: Inputs, children: Iterable[nn.Module], look: Hook) -> None:
    """One forward pass in eval mode, with a look at what these children are given and give."""
    with _watched(children, look), evaluating(network):
        call(network, example)


@contextmanager
def _watched(children: Iterable[nn.Module], look: Hook) -> Iterator[None]:
    handles = [child.register_forward_hook(look) for child in children]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _narrow(network: nn.Module, example: Inputs, share: float) -> None:
    """Leave this share of the channels of each group that allows it, at least one; in place."""
    channels = channel_groups(network, example)
    statuses = []
    for group in channels.groups:
        gone = np.arange(group.size) >= max(1, round(share * group.size))
        if group.prunable and gone.any():
            statuses.append(GroupStatus(group, gone, gone))
    plan = plan_removal(network, channels, inputs=(), statuses=statuses)  # of new weights no constant has to be kept
    remove(network, plan)
    read = {(consumer.weight, consumer.dim) for consumer in channels.consumers}
    for cut in plan.cuts:
        if (cut.parameter, cut.dim) in read:
            named_tensor(network, cut.parameter).mul_((cut.size / cut.left) ** 0.5)


def hidden_layers(network: nn.Module, example: Inputs) -> tuple[str, ...]:
    """The layers with a matrix of their own, in the order in which they run, without the last one: the output."""
    names = {child: name for name, child in network.named_modules()}
    layers = [child for child in names if not is_norm(child) and any(p.dim() > 1 for p in child.parameters(False))]
    seen: dict[str, None] = {}
    _run(network, example, layers, lambda child, given, output: seen.setdefault(names[child]))
    return tuple(seen)[:-1]


class Listened(nn.Module):
    """Gives what its module gives, and keeps what some layers of it gave last."""

    def __init__(self, module: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.module, self.layers = module, layers
        self.heard: dict[str, Tensor] = {}  # by layer: channels last, (..., C)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        names = {self.module.get_submodule(name): name for name in self.layers}

        def hear(layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            first = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))  # recurrent layers give more
            self.heard[names[layer]] = first.movedim(1, -1) if isinstance(layer, CONVOLUTIONS) else first

        with _watched(names, hear):
            return self.module(*inputs, **named)


class Guided(nn.Module):
    """A network, and a linear map for each hidden layer of its guide; trained in the network's place.

    Args:
        network: to be trained.
        guide: from `contracted`, trained. Who trains runs `teacher` on each batch, after the network.
    """

    def __init__(self, network: nn.Module, guide: nn.Module, example: Inputs) -> None:
        super().__init__()
        self.network, self.strength = network, 1.0
        self.layers = hidden_layers(guide, example)
        self._own = (Listened(network, self.layers),)  # in tuples: not registered, so neither trained nor kept
        self._guide = (Listened(guide, self.layers).requires_grad_(False),)
        own, shown = self._own[0].heard, self._guide[0].heard
        with torch.no_grad(), evaluating(network), evaluating(guide):
            for listened in (*self._own, *self._guide):
                call(listened, example)
        self.maps = nn.ModuleList(nn.Linear(own[name].shape[-1], shown[name].shape[-1]) for name in self.layers)
        self.to(next(network.parameters()).device)
        own.clear()
        shown.clear()

    @property
    def teacher(self) -> nn.Module | None:
        """The guide; None: it has no say any more."""
        return self._guide[0] if self.strength else None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        listens = self.training and self.strength > 0
        return (self._own[0] if listens else self.network)(*inputs, **named)

    def penalty(self) -> Tensor | None:
        """The hidden guidance of the last batch: (). None: there is none any more.

        Of each layer, how far its mapped output is from the guide's, as a share of the variance of the guide's; the
        mean over the layers.
        """
        own, shown = self._own[0].heard, self._guide[0].heard
        shares = []
        for mapped, name in zip(self.maps, self.layers, strict=True):
            if name in own and name in shown:
                wanted = shown[name].float()
                error = functional.mse_loss(mapped(own[name].float()), wanted)
                shares.append(error / wanted.var(correction=0).clamp_min(1e-6))
        own.clear()  # with the graph behind it
        shown.clear()
        return HIDDEN * self.strength * torch.stack(shares).mean() if shares else None
