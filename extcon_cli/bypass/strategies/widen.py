"""Widening: new units whose outgoing weights are zero, trained, and contracted back to the original width."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import nn

from extcon_cli.bypass.strategies.base import StrategyContext, check_exact
from extcon_cli.bypass.strategies.narrowed import Narrowed, Narrowing
from extcon_cli.bypass.units import by_name, contractible, covers, draw, neutral, taken, units
from extcon_cli.channels import ChannelGroup, Channels, Slice, sync_attributes
from extcon_cli.channels.widening import append
from extcon_cli.errors import UsageError, first_line


def widen(
    module: nn.Module, channels: Channels, share: float, *, layers: Iterable[str] = ("*",), seed: int = 0
) -> tuple[nn.Module, dict[ChannelGroup, int]]:
    """A copy with new units in every group that allows it, and how many: `share` of its units, at least one.

    Raises: UsageError (no group can be widened).
    """
    wide = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    added = {}
    for group in contractible(wide, channels, units(wide, channels)):
        if not covers(wide, group) or not any(fnmatchcase(group.name, pattern) for pattern in layers):
            continue
        number = max(1, round(share * group.group.size))
        for part, tensor in taken(wide, group.writers):
            append(wide, part.parameter, part.dim, draw(tensor, part.dim, number * _each(part), generator))
        for part, tensor in taken(wide, group.readers):
            append(
                wide, part.parameter, part.dim, torch.zeros_like(tensor.narrow(part.dim, 0, 1)), number * _each(part)
            )
        for part, tensor in taken(wide, group.others):
            append(wide, part.parameter, 0, torch.full_like(tensor[:1], neutral(part.parameter)), number * _each(part))
        added[group.group] = number
    if not added:
        raise UsageError(
            "no layer can be widened: no group of units has weights of its own and can go again exactly "
            "(`extcon inspect` says why)"
        )
    sync_attributes(wide)
    return wide, added


def _each(part: Slice) -> int:
    """Positions of a slice that one unit takes: of a head as many as it is wide."""
    return int(part.index.shape[1])


def widened(original: nn.Module, context: StrategyContext) -> tuple[nn.Module, dict[ChannelGroup, int], float]:
    """`widen` as the settings say, and by how much it moved an output.

    Raises: UsageError (no group can be widened; the model does not run with more units); GateError (it moved too much).
    """
    settings = context.settings
    wide, added = widen(original, context.channels(), settings.share, layers=settings.widened, seed=context.seed)
    try:
        moved = check_exact(original, wide, context.example, "widening changes the outputs by")
    except RuntimeError as error:  # a forward pass with sizes of its own
        raise UsageError(
            f"the model does not run with more units ({first_line(error)}): leave some of {', '.join(by_name(added))} "
            "out by the name patterns of the layers"
        ) from error
    return wide, added, moved


class Widened(Narrowed):
    """New units from the start."""

    title = "Widening"

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        self.module, self.added, self.embedding = widened(self.module, context)
        self.narrowing = self.start_narrowing()  # what cannot be contracted is refused before it is trained

    def enter_opt_2(self) -> Narrowing:
        assert self.narrowing is not None
        return self.narrowing
