"""Traced forward passes run again on real tensors, operator by operator and side by side, so that one can look between.

Any module of the traced architecture can run, with its weights as they are at each operator. Nothing here changes
them; buffers that the forward pass writes to are written to in a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from extcon_cli.channels.analysis.operator import Operator
from extcon_cli.channels.analysis.trace import Graph, trace
from extcon_cli.channels.compare import Inputs
from extcon_cli.channels.modules import named_tensors
from extcon_cli.errors import TraceError, first_line


class Replay:
    """The values of one forward pass, as far as it has come.

    Raises:
        TraceError: the graph takes other inputs than these.
    """

    def __init__(self, graph: Graph, module: nn.Module, inputs: Inputs) -> None:
        self.graph = graph
        self.tensors = named_tensors(module)
        self.device = next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))
        self.values: dict[fx.Node, Any] = {}
        self.last_use = {read: node for node in graph.nodes for read in node.all_input_nodes}
        places = [node for node in graph.nodes if node.op == "placeholder" and node.name in graph.inputs]
        leaves = {id(leaf): leaf for leaf in tree_leaves(_arguments(inputs)) if isinstance(leaf, Tensor)}
        if len(places) != len(leaves):
            raise TraceError(f"the traced forward pass takes {len(places)} tensors, these inputs hold {len(leaves)}")
        self.inputs = dict(zip(places, leaves.values(), strict=True))

    def run(self, node: fx.Node) -> Any:
        """The value of a node whose inputs have been run; again, it takes the weights as they are now."""
        self.values[node] = value = self._value(node)
        return value

    def leave(self, node: fx.Node) -> None:
        """Forget what nothing after this node reads."""
        for read in (*node.all_input_nodes, node):
            if self.last_use.get(read, node) is node:
                self.values.pop(read, None)

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            if node in self.inputs:
                return self.inputs[node]
            name = self.graph.stored.get(node.name)
            if name is None:
                return self.graph.constants[node.name].to(self.device)
            return self.tensors[name].clone() if name in self.graph.changing else self.tensors[name]
        args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), self._argument)
        if node.op == "output" or getattr(node.target, "__name__", "") == "overwritten":
            return args[0]  # memory that was written to through another tensor, whose node has run
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _argument(self, given: Any) -> Any:
        if isinstance(given, torch.device):
            return self.device  # a graph over meta tensors says meta
        return self.values[given] if isinstance(given, fx.Node) else given


class SideBySide:
    """The same forward pass of several modules of one architecture, on several batches.

    Raises:
        TraceError: the forward pass cannot be traced or run again, or runs other operators on another batch.
    """

    def __init__(self, modules: Sequence[nn.Module], batches: Sequence[Inputs]) -> None:
        graphs = [trace(modules[0], each if isinstance(each, tuple) else dict(each)) for each in batches]
        self.graph = graphs[0]
        if any([node.name for node in graph.nodes] != [node.name for node in self.graph.nodes] for graph in graphs):
            raise TraceError("the forward pass runs other operators on another batch")
        self._same = dict(zip(self.graph.nodes, zip(*(graph.nodes for graph in graphs), strict=True), strict=True))
        pairs = list(zip(graphs, batches, strict=True))
        self.replays = [[Replay(graph, module, batch) for graph, batch in pairs] for module in modules]

    def __iter__(self) -> Iterator[fx.Node]:
        """The nodes of the graph, each run in all modules and on all batches."""
        for node in self.graph.nodes:
            for number in range(len(self.replays)):
                self.run(node, number)
            yield node
            for passes in self.replays:
                for replay, same in zip(passes, self._same[node], strict=True):
                    replay.leave(same)

    def run(self, node: fx.Node, module: int) -> None:
        """Run a node of one module on all batches, with its weights as they are now."""
        for replay, same in zip(self.replays[module], self._same[node], strict=True):
            try:
                replay.run(same)
            except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:  # whatever torch says to it
                raise TraceError(f"{Operator(node).name} fails when it is run again: {first_line(error)}") from error

    def tap(self, node: fx.Node) -> Tensor:
        """What a node gives in the first module on the first batch, as a tensor to ask for the gradient at."""
        values, same = self.replays[0][0].values, self._same[node][0]
        value: Tensor = values[same] if values[same].requires_grad else values[same].detach().requires_grad_()
        values[same] = value.clone()  # what follows may change it in place
        return value

    def values(self, node: fx.Node) -> list[tuple[Any, ...]]:
        """What the node gives in each module, for each batch."""
        return [
            tuple(passes[place].values[same] for passes in self.replays) for place, same in enumerate(self._same[node])
        ]


def _arguments(inputs: Inputs) -> Any:
    return (inputs, {}) if isinstance(inputs, tuple) else ((), dict(inputs))
