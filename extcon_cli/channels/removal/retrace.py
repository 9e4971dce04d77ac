"""Trace a shrunk module, or one that should do the same, and say what it does otherwise.

The comparison itself is in `same_graph.py`.
"""

from __future__ import annotations

from torch import nn

from extcon_cli.channels.analysis.groups import Channels, analyse
from extcon_cli.channels.analysis.trace import trace
from extcon_cli.channels.compare import Examples, each_example
from extcon_cli.channels.removal.narrow import exchanged
from extcon_cli.channels.removal.rewrites import RemovalPlan
from extcon_cli.channels.removal.same_graph import GraphDifference, graph_differences
from extcon_cli.errors import TraceError


def differences_after(
    small: nn.Module, channels: Channels, plan: RemovalPlan, examples: Examples
) -> list[GraphDifference]:
    """What the shrunk module's graph does otherwise; a module that cannot be traced any more is a difference too.

    Args:
        small: after the removal.
        channels: of the module before it.
        plan: of the removal.
        examples: what `channels` was traced with.
    """
    found: list[GraphDifference] = []
    for before, example in zip(channels.graphs, each_example(examples), strict=True):
        try:
            after = trace(small, example, exported=before.exported)
        except TraceError as error:
            return [GraphDifference(type(small).__name__, f"the smaller model cannot be traced ({error})")]
        if after.exported != before.exported:
            return [GraphDifference(type(small).__name__, "the smaller model cannot be recorded as before")]
        found += graph_differences(channels, plan, before, after, exchanged(small))
    return found


def differences_between(first: nn.Module, second: nn.Module, examples: Examples) -> list[GraphDifference]:
    """What the graph of the second module does otherwise than that of the first, which has the same parameters."""
    channels = analyse(first, *(trace(first, example) for example in each_example(examples)))
    return differences_after(second, channels, RemovalPlan(), examples)
