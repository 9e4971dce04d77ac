"""Trace a shrunk module, or one that should do the same: what it does otherwise, and whose channels meet there.

The comparison itself is in `same_graph.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import fx, nn

from extcon_cli.channels.analysis.axes import axes_in
from extcon_cli.channels.analysis.groups import Channels, analyse
from extcon_cli.channels.analysis.operator import Operator
from extcon_cli.channels.analysis.trace import Graph, NotTraced, retrace, trace
from extcon_cli.channels.compare import Examples, Inputs, each_example, outputs
from extcon_cli.channels.culprits import Failure
from extcon_cli.channels.removal.narrow import exchanged
from extcon_cli.channels.removal.rewrites import RemovalPlan
from extcon_cli.channels.removal.same_graph import graph_differences
from extcon_cli.errors import TraceError, first_line

ON_THE_WIDTH = "the forward pass depends on the width: "


def failures_after(small: nn.Module, channels: Channels, plan: RemovalPlan, examples: Examples) -> list[Failure]:
    """What the shrunk module's graph does otherwise; a module that cannot be traced any more is a failure too.

    Args:
        small: after the removal.
        channels: of the module before it.
        plan: of the removal.
        examples: what `channels` was traced with.
    """
    found: list[Failure] = []
    for number, (before, example) in enumerate(zip(channels.graphs, each_example(examples), strict=True)):
        ended = ""
        if before.exported and (why := _fails(small, example)):  # sooner than torch.export says it
            return [Failure(f"the forward pass fails on the smaller width: {why}")]
        try:
            after = retrace(small, example, before)
        except NotTraced as error:
            if error.so_far is None:
                return [Failure(f"the smaller model cannot be recorded as before: {error}")]
            after, ended = error.so_far, f"the forward pass fails on the smaller width: {error}"
        except TraceError as error:
            return [Failure(f"the smaller model cannot be traced: {error}")]
        different = graph_differences(channels, plan, before, after, exchanged(small), whole=not ended)
        for difference in different:
            why = f"{ON_THE_WIDTH}{difference}"
            place = (number, difference.node.name) if difference.node is not None else None
            found.append(
                Failure(
                    ended or why,
                    place,
                    _suspects(channels, before, difference.node),
                )
            )
        if ended and not different:  # the operators that it came to are all there, and as they were
            found.append(Failure(ended))
    return found


def differences_between(first: nn.Module, second: nn.Module, examples: Examples) -> list[str]:
    """What the graph of the second module does otherwise than that of the first, which has the same parameters."""
    counted = [{path: _missing(one, path) for path in exchanged(one)} for one in (first, second)]
    if unlike := counted[0].items() ^ counted[1].items():
        return [f"{min(unlike)[0]} counts removed channels in one of them only"]
    channels = analyse(first, *(trace(first, example) for example in each_example(examples)))
    failures = failures_after(second, channels, RemovalPlan(), examples)
    return [failure.reason.removeprefix(ON_THE_WIDTH) for failure in failures]


def _missing(module: nn.Module, path: str) -> int:
    """How many removed channels a norm counts."""
    return int(getattr(module.get_submodule(path), "missing", 0))


def _fails(module: nn.Module, example: Inputs) -> str:
    """What a forward pass raises; empty: nothing."""
    try:
        outputs(module, example)
    except Exception as error:  # whatever the model's own code raises on other sizes
        return first_line(error)
    return ""


def _suspects(channels: Channels, graph: Graph, node: fx.Node | None) -> tuple[frozenset[int], ...]:
    """The groups whose channels an operator reads or gives, then those whose channels its module does."""
    if node is None:
        return ()
    path = Operator(node).module
    called = [other for other in graph.nodes if other.op == "call_function"]
    beside = [other for other in called if f"{Operator(other).module}.".startswith(f"{path}.") or not path]
    return tuple(
        frozenset(_groups_at(channels, [*nodes, *(read for each in nodes for read in each.all_input_nodes)]))
        for nodes in ([node], beside)
    )


def _groups_at(channels: Channels, nodes: Sequence[fx.Node]) -> Iterator[int]:
    """The groups, by their `id`, whose channels are in these values."""
    there = [channels.ids_along(axis) for node in nodes for axis in axes_in(channels.analysis.values.get(node))]
    if there:
        met = np.unique(np.concatenate(there))
        yield from (id(group) for group in channels.groups if np.isin(channels.ids_of(group), met).any())
