"""The extension that stays: new units, as widening draws them, which are never contracted again.

The result is another architecture, with more parameters and operations. Nothing but this strategy gives one up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from extcon_cli.bypass.strategies.base import ContractionReport, Strategy, StrategyContext
from extcon_cli.bypass.strategies.widen import widened
from extcon_cli.bypass.units import by_name
from extcon_cli.channels import ChannelGroup


@dataclass(frozen=True)
class WiderReport(ContractionReport):
    """How many units stay, and by how much adding them moved the outputs."""

    added: Mapping[ChannelGroup, int]
    embedding: float

    def to_json(self) -> dict[str, object]:
        return {"added": by_name(self.added), "embed_difference": self.embedding}


class Wider(Strategy):
    """More units, from the start to the end."""

    title = "Widening for good"

    def __init__(self, context: StrategyContext) -> None:
        super().__init__(context)
        self.module, self.added, self.embedding = widened(self.module, context)

    @property
    def figures(self) -> dict[str, float]:
        return {"added": sum(self.added.values())}

    def contract(self) -> WiderReport:
        return WiderReport(self.module, self.added, self.embedding)
