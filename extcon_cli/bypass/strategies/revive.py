"""Revival: units that give one constant on all data get new weights, and the model's outputs on these data stay.

What reads a dead unit takes its constant over into the bias and is set to zero; then the unit's own filter is drawn
anew, so that both have a gradient again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.bypass.plateau import UnitCounts
from extcon_cli.bypass.strategies.base import ContractionReport, Strategy, StrategyContext
from extcon_cli.bypass.units import Units, by_name, draw, neutral, positions, taken, units
from extcon_cli.channels import ChannelGroup, Consumer, difference
from extcon_cli.channels.compare import Inputs, call
from extcon_cli.channels.modules import evaluating, named_tensors
from extcon_cli.errors import UsageError

READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def constants_on(module: nn.Module, found: list[Units], batches: Iterable[Inputs]) -> list[dict[str, Tensor]]:
    """Of each group's units, for every map that reads them: the constant that it reads on all data, else NaN: (n,).

    Args:
        batches: arguments of a forward pass in eval mode.
    """
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}

    def watched(weight: str, dim: int) -> Callable[..., None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().movedim(dim, 0).flatten(1).cpu()
            least, most = rows.amin(1), rows.amax(1)
            low[weight] = torch.minimum(low[weight], least) if weight in low else least
            high[weight] = torch.maximum(high[weight], most) if weight in high else most

        return see

    readers = {
        part.parameter: module.get_submodule(part.parameter.rpartition(".")[0]) for u in found for part in u.readers
    }
    handles = [
        owner.register_forward_pre_hook(watched(weight, -1 if isinstance(owner, nn.Linear) else 1))
        for weight, owner in readers.items()
        if isinstance(owner, READERS)
    ]
    try:
        with evaluating(module):
            for batch in batches:
                call(module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return [
        {part.parameter: _constants(part.index, low, high, part.parameter) for part in group.readers} for group in found
    ]


def _constants(index: Any, low: dict[str, Tensor], high: dict[str, Tensor], weight: str) -> Tensor:
    if weight not in low:  # not read by a module of its own: nothing is known
        return torch.full((len(index),), torch.nan)
    least, most = low[weight][index], high[weight][index]  # (units, positions of each)
    same = (least == most).all(1) & (least == least[:, :1]).all(1)
    return torch.where(same, least[:, 0], torch.nan)


def constant_units(module: nn.Module, found: list[Units], batches: Iterable[Inputs]) -> dict[str, UnitCounts]:
    """The dead units of each group, by its name; of nearly dead ones nothing is known."""
    constants = constants_on(module, found, batches)
    dead = {item.group: int(_dead(seen).sum()) for item, seen in zip(found, constants, strict=True)}
    size = by_name({item.group: item.group.size for item in found})
    return {name: UnitCounts(number, 0, size[name]) for name, number in by_name(dead).items()}


def _dead(seen: Mapping[str, Tensor]) -> Tensor:
    """Which units give a constant to all that read them: (n,)."""
    return torch.stack([~values.isnan() for values in seen.values()]).all(0)


@torch.no_grad()
def revive(
    module: nn.Module, found: list[Units], constants: list[dict[str, Tensor]], *, seed: int = 0
) -> dict[ChannelGroup, int]:
    """Draw dead units anew, in place; how many of each group. A unit counts as dead where it gives a constant to all.

    A constant other than zero has to be foldable: read without padding, by a map with a bias of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = named_tensors(module)
    revived = {}
    for group, seen in zip(found, constants, strict=True):
        dead = _dead(seen)
        for consumer in group.consumers:
            if not _folds(module, consumer):
                dead &= seen[consumer.weight] == 0
        chosen = dead.nonzero().flatten()
        if not len(chosen) or any(part.index.shape[1] > 1 for part in (*group.writers, *group.others)):
            continue
        for consumer, part in ((c, p) for c in group.consumers for p in group.readers if p.parameter == c.weight):
            weight = tensors[consumer.weight]
            places = positions(part, chosen).to(weight.device)
            values = seen[consumer.weight][chosen].repeat_interleave(part.index.shape[1]).to(weight)
            if consumer.bias is not None and values.any():
                columns = weight.index_select(1, places)  # (rows, units, *taps)
                gains = columns.flatten(2).sum(2) if columns.dim() > 2 else columns
                tensors[consumer.bias].add_(gains @ values)
            weight.index_fill_(consumer.dim, places, 0.0)
        for part, tensor in taken(module, group.writers):
            tensor.index_copy_(part.dim, positions(part, chosen), draw(tensor, part.dim, len(chosen), generator))
        for part, tensor in taken(module, group.others):
            tensor.index_fill_(0, positions(part, chosen), neutral(part.parameter))
        revived[group.group] = len(chosen)
    return revived


def _folds(module: nn.Module, consumer: Consumer) -> bool:
    return consumer.bias is not None and not consumer.padded and consumer.groups == 1 and consumer.dim == 1


@dataclass(frozen=True)
class ReviveReport(ContractionReport):
    """How many units got new weights, and by how much the outputs on the data moved."""

    revived: Mapping[ChannelGroup, int]
    embedding: float

    def to_json(self) -> dict[str, object]:
        return {"revived": by_name(self.revived), "embed_difference": self.embedding}


class NothingDead(UsageError):
    """No unit is dead on the training data."""


class Revived(Strategy):
    """Units that give one constant on all training data get new weights; there is nothing to contract."""

    title = "Reviving"

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        if context.data is None:
            raise UsageError("reviving needs all training inputs, to know which units are dead")
        before = copy.deepcopy(self.module)
        found = units(self.module, context.channels())
        self.revived = revive(self.module, found, constants_on(self.module, found, context.data()), seed=context.seed)
        if not self.revived:
            raise NothingDead("no unit is dead on the training data: there is nothing to revive")
        self.embedding = difference(before, self.module, context.data()).relative

    def contract(self) -> ReviveReport:
        return ReviveReport(self.module, self.revived, self.embedding)
