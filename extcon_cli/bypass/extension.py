"""embed: psi(x) = D x + sigma(x) in place of activations, with D = 0 (paper, eq. 7, 8, 10).

The extended model is an fx graph over the *same* parameters, so the original module trains along and needs no
undoing. Each call of an activation is a site of its own: modules (shared ones too), functions, methods, in-place.
Where the forward pass cannot be rewritten, as with most of transformers' models, its activation modules are swapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from extcon_cli.bypass.psi import Applied, Psi
from extcon_cli.bypass.swap import activations, channel_axis, sharing
from extcon_cli.channels.compare import Inputs, call
from extcon_cli.errors import GateError, TraceError, UsageError, first_line

Form = Literal["auto", "strict", "relaxed"]
NAMES = ("relu", "relu_", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "selu", "softplus", "mish", "relu6")
"""Elementwise activations by the name of their function or method."""
MODULES = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.SELU, nn.Softplus, nn.Mish,
           nn.ReLU6)  # fmt: skip
TRANSPARENT = (nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Site:
    """Where psi sits. `first` and `second` are W and A of the strict form; None: relaxed."""

    name: str
    width: int
    axis: int
    path: str  # of psi in the extended module
    first: str | None = None
    second: str | None = None

    @property
    def strict(self) -> bool:
        return self.first is not None


class Extended(nn.Module):
    """phi_2: the model with psi at its sites. One graph for training, one for evaluation, parameters shared."""

    def __init__(self, fit: nn.Module, infer: nn.Module, sites: Sequence[Site]) -> None:
        super().__init__()
        self.fit, self.infer, self.sites = fit, infer, tuple(sites)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return (self.fit if self.training else self.infer)(*args, **kwargs)

    def psi(self, site: Site) -> Psi:
        found = self.fit.get_submodule(site.path)
        assert isinstance(found, Psi)
        return found

    @property
    def deltas(self) -> list[nn.Parameter]:
        """The diagonals of D, one a site."""
        return [self.psi(site).delta for site in self.sites]


def extend(
    model: nn.Module, example_inputs: Inputs, *, form: Form = "auto", layers: Sequence[str] = ("*",)
) -> Extended:
    """Embed the model: outputs bit for bit the same, parameters shared with `model`.

    Args:
        form: `auto` takes the strict form wherever dense-act-dense stands, else the relaxed one.
        layers: name patterns of sites, such as "layer1_*" (`Extended.sites` lists the names).

    Raises: TraceError, UsageError (no site), GateError (an output would change: such as an in-place activation
    whose input is read again).
    """
    training = model.training
    like = next(p for p in model.parameters() if p.is_floating_point())
    try:
        try:
            extended = _rewritten(model, example_inputs, form, layers, like)
        except TraceError as error:
            extended = _swapped(model.eval(), example_inputs, form, layers, like, error)
        model.eval()
        extended.eval()
        with torch.no_grad():
            before, after = (_tensors(call(each, example_inputs)) for each in (model, extended))
        if not all(torch.equal(x, y) for x, y in zip(before, after, strict=True)):
            raise GateError("embedding would change the model's outputs: an activation works in place on what is "
                            "read again, or an output is not finite; leave it out with bypass.layers")  # fmt: skip
    finally:
        model.train(training)
    return extended.train(training)


def _rewritten(model: nn.Module, example: Inputs, form: Form, layers: Sequence[str], like: Tensor) -> Extended:
    if isinstance(example, Mapping):
        raise TraceError("the model takes its inputs by name; it is extended by its modules alone")
    fit, infer = (_graph(model.train(mode)) for mode in (True, False))
    with torch.no_grad():
        ShapeProp(infer).propagate(*example)
    sites = _chosen(_sites(infer, form), form, layers)
    if [n.name for n in fit.graph.nodes if _is_activation(n, fit)] != [
        n.name for n in infer.graph.nodes if _is_activation(n, infer)
    ]:
        raise TraceError("the model calls other activations in training than in evaluation; it cannot be extended")
    shared: dict[str, Psi] = {}
    for graph in (fit, infer):
        _insert(graph, sites, shared, like)
    return Extended(fit, infer, sites)


def _swapped(
    model: nn.Module, example: Inputs, form: Form, layers: Sequence[str], like: Tensor, error: TraceError
) -> Extended:
    """A copy over the same parameters, with psi in the places of activation modules (TraceError: there are none)."""
    tree = sharing(model)
    with torch.no_grad():
        found = activations(tree, example)
    if not found or form == "strict":
        raise error
    sites = [Site(path.replace(".", "_"), width, axis, path) for path, (width, axis) in found.items()]
    sites = _chosen(sites, form, layers)
    for site in sites:
        tree.set_submodule(site.path, Psi(tree.get_submodule(site.path), site.width, site.axis, like))
    return Extended(tree, tree, sites)


def _chosen(sites: list[Site], form: Form, layers: Sequence[str]) -> list[Site]:
    chosen = [site for site in sites if any(fnmatchcase(site.name, pattern) for pattern in layers)]
    if not chosen:
        raise UsageError(f"no activation to extend ({form}, {', '.join(layers)}): try form: auto and layers: ['*']")
    return chosen


def _graph(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.GraphModule(model, fx.Tracer().trace(model))
    except Exception as error:
        what = f"{type(model).__name__} cannot be extended"
        raise TraceError(f"{what}: its forward pass cannot be traced: {first_line(error)}") from error


def _is_activation(node: fx.Node, graph: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), MODULES)
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in NAMES


def _sites(graph: fx.GraphModule, form: Form) -> list[Site]:
    found = []
    for node in graph.graph.nodes:
        if not _is_activation(node, graph):
            continue
        pair = _pair(node, graph) if form != "relaxed" else None
        if form == "strict" and pair is None:
            continue
        found.append((node, pair))
    return [_site(node, pair, graph) for node, pair in found]


def _site(node: fx.Node, pair: tuple[str, str] | None, graph: fx.GraphModule) -> Site:
    shape = node.meta["tensor_meta"].shape
    axis = _axis(node, graph, len(shape))
    return Site(node.name, int(shape[axis]), axis, f"psi_{node.name}", *(pair or (None, None)))


def _axis(node: fx.Node, graph: fx.GraphModule, dims: int) -> int:
    """Channels lie last behind a dense layer, else second."""
    producer = node.all_input_nodes[0]
    dense = producer.op == "call_module" and isinstance(graph.get_submodule(str(producer.target)), nn.Linear)
    return channel_axis(dims, dense)


def called_once(node: fx.Node, graph: fx.GraphModule) -> bool:
    """Whether no other node of the graph calls the same module."""
    return sum(other.target == node.target for other in graph.graph.nodes) == 1


def _pair(node: fx.Node, graph: fx.GraphModule) -> tuple[str, str] | None:
    """W and A where the activation stands between two dense layers, and only A reads it."""
    first = node.all_input_nodes[0]
    reader = node
    while len(reader.users) == 1:
        reader = next(iter(reader.users))
        if not (reader.op == "call_module" and isinstance(graph.get_submodule(str(reader.target)), TRANSPARENT)):
            break
    ends = [first, reader]
    if reader is node or any(end.op != "call_module" for end in ends):
        return None
    w, a = (graph.get_submodule(str(end.target)) for end in ends)
    if not (type(w) is type(a) is nn.Linear and called_once(reader, graph) and (a.bias is not None or w.bias is None)):
        return None
    return str(first.target), str(reader.target)


def _insert(graph: fx.GraphModule, sites: Sequence[Site], shared: dict[str, Psi], like: Tensor) -> None:
    nodes = {node.name: node for node in graph.graph.nodes}
    for site in sites:
        node = nodes[site.name]
        if site.name not in shared:
            if node.op == "call_module":
                activation = graph.get_submodule(str(node.target))
            else:
                activation = Applied(node.target, tuple(node.args[1:]), dict(node.kwargs))
            shared[site.name] = Psi(activation, site.width, site.axis, like)
        graph.add_submodule(site.path, shared[site.name])
        with graph.graph.inserting_after(node):
            new = graph.graph.call_module(site.path, (node.all_input_nodes[0],))
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.recompile()


def _tensors(output: Any) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(output) if isinstance(x, Tensor)]
