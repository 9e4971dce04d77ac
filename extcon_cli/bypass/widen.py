"""Widening: new units whose outgoing weights are zero, trained, and contracted back to the original width.

The way back is Catalyst's (score, flow, exact removal): both methods are one engine of extension and contraction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.bypass.units import append, covers, draw, neutral, taken, units
from extcon_cli.catalyst.bifurcation import Flow
from extcon_cli.catalyst.filters import Filters
from extcon_cli.catalyst.scores import energy
from extcon_cli.channels import Channels, channel_groups, classify, plan_removal, remove, sync_attributes
from extcon_cli.errors import GateError, UsageError


def widen(
    module: nn.Module, channels: Channels, share: float, *, layers: Iterable[str] = ("*",), seed: int = 0
) -> tuple[nn.Module, dict[str, int]]:
    """A copy with new units in every group that allows it, and how many: `share` of its units, at least one.

    Raises: UsageError (no group can be widened).
    """
    wide = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    added = {}
    for group in units(wide, channels):
        if not covers(wide, group) or not any(fnmatchcase(group.name, pattern) for pattern in layers):
            continue
        number = max(1, round(share * group.group.size))
        for part, tensor in taken(wide, group.writers):
            append(wide, part.parameter, part.dim, draw(tensor, part.dim, number, generator))
        for part, tensor in taken(wide, group.readers):
            read = torch.zeros_like(tensor.narrow(part.dim, 0, 1))
            append(wide, part.parameter, part.dim, read, number * part.index.shape[1])
        for part, tensor in taken(wide, group.others):
            append(wide, part.parameter, 0, torch.full_like(tensor[:1], neutral(part.parameter)), number)
        added[group.name] = number
    if not added:
        raise UsageError(
            "no layer can be widened: no group of units has weights of its own (`extcon inspect` says why)"
        )
    sync_attributes(wide)
    return wide, added


class Narrowing:
    """Contracts a widened module to its original width: decide once by the energy, then the flow, then removal."""

    def __init__(self, wide: nn.Module, example: tuple[Any, ...], added: Mapping[str, int], steps: int) -> None:
        self.wide, self.example, self.added, self.steps = wide, example, added, steps
        found = channel_groups(wide, example)
        kept = tuple(g if g.name in added and g.prunable else replace(g, reason="not widened") for g in found.groups)
        if missing := set(added) - {group.name for group in kept if group.prunable}:
            raise GateError(f"the widened {', '.join(sorted(missing))} cannot be contracted exactly")
        self.channels = replace(found, groups=kept)
        self.filters = Filters.of(kept)
        self.flow: Flow | None = None

    def decide(self, batches: Iterable[Any], loss: Callable[[Any], Tensor]) -> None:
        """As many units of each group go as were added: those with the least energy, old or new."""
        self.take(energy(self.wide, self.filters, batches, loss))

    def take(self, scores: Tensor) -> None:
        """As many units of each group go as were added: those that are worth least by the scores, (n,)."""
        decided = torch.zeros(len(self.filters), dtype=torch.bool)
        for group, span in zip(self.filters.groups, self.filters.spans(), strict=True):
            decided[span] = torch.zeros(group.size, dtype=torch.bool).index_fill_(
                0, scores[span].argsort(stable=True)[: self.added[group.name]], True
            )
        self.flow = Flow(self.wide, self.filters, decided, steps=self.steps)

    def step(self) -> None:
        """After each optimizer step."""
        assert self.flow is not None
        self.flow.step(0.0)

    @property
    def met(self) -> bool:
        """Whether all decided units are exactly zero."""
        return self.flow is not None and self.flow.missing == 0

    def narrow(self) -> nn.Module:
        """A copy of the original width; what was decided is removed and nothing else."""
        assert self.flow is not None
        decided = dict(zip((g.name for g in self.filters.groups), self.filters.spans(), strict=True))
        mask = self.flow.decided.cpu().numpy()
        verdicts = [
            replace(
                v,
                removable=v.removable & mask[decided[v.group.name]] if v.group.name in decided else v.removable & False,
            )
            for v in classify(self.wide, self.channels)
        ]
        gone = sum(int(verdict.removable.sum()) for verdict in verdicts)
        if gone != int(mask.sum()):
            raise GateError(f"{gone} of {int(mask.sum())} added units can be removed exactly: no bypassed model")
        narrow = copy.deepcopy(self.wide)
        remove(narrow, plan_removal(self.wide, self.channels, statuses=verdicts))
        return narrow

    def state_dict(self) -> dict[str, Any]:
        """What a resumed narrowing needs."""
        return {} if self.flow is None else {"decided": self.flow.decided, "flow": self.flow.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stopped."""
        if state:
            self.flow = Flow(self.wide, self.filters, state["decided"], steps=self.steps)
            self.flow.load_state_dict(state["flow"])
