"""embed: psi(x) = D x + sigma(x) in place of activations, with D = 0 (paper, eq. 7, 8, 10).

The extended model is an fx graph over the *same* parameters, so the original module trains along and needs no
undoing. Each call of an activation is a site of its own: modules (shared ones too), functions, methods, in-place.
A forward pass whose control flow depends on its data is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from extcon_cli.errors import GateError, TraceError, UsageError

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
    first: str | None = None
    second: str | None = None

    @property
    def strict(self) -> bool:
        return self.first is not None


class Psi(nn.Module):
    """psi(x) = D x + sigma(x), one entry of D a channel."""

    def __init__(self, activation: nn.Module, width: int, axis: int, like: Tensor) -> None:
        super().__init__()
        self.activation, self.axis = activation, axis
        self.writes = isinstance(activation, Applied) and activation.writes  # to what it is given
        self.rectifies = type(activation) is nn.ReLU or getattr(activation, "name", "") in ("relu", "relu_")
        self.delta = nn.Parameter(torch.zeros(width, dtype=like.dtype, device=like.device))  # (width,) diagonal of D

    def forward(self, x: Tensor) -> Tensor:
        delta = self.delta.reshape([-1 if dim == self.axis else 1 for dim in range(x.dim())])
        if self.rectifies:
            y: Tensor = Rectified.apply(x, delta.to(x.dtype))
            return y
        y = self.activation(x.clone() if self.writes else x)
        return torch.addcmul(y, delta.to(y.dtype), x.to(y.dtype))


class Rectified(torch.autograd.Function):
    """D x + max(x, 0) for a D that is broadcast to x, and its gradients in as few passes over memory as there can be.

    By torch's own operators a step of ResNet-18 took 12 % longer, most of it for pages of memory asked for anew.
    """

    @staticmethod
    def forward(x: Tensor, delta: Tensor) -> Tensor:
        return torch.relu(x).addcmul_(delta, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x, delta), (y,) = ctx.saved_tensors, gradients
        along_x = torch.ops.aten.threshold_backward(y, x, 0).addcmul_(delta, y)
        return along_x, _summed_product(y, x, delta.shape)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, int | None], *held: Tensor) -> tuple[Tensor, int]:
        batched = (t[None] if dim is None else t.movedim(dim, 0) for t, dim in zip(held, dims, strict=True))
        return Rectified.apply(*batched), 0


def _summed_product(y: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """y x, summed to the shape."""
    maps = x.dim() == 4 and shape == (1, x.shape[1], 1, 1) and x.shape[2:].numel() >= 16
    if not (maps and x.device.type == "cpu" and x.dtype is y.dtype is torch.float32):
        return (y * x).sum_to_size(shape)
    # what a batch norm of mean 0 and variance 1 gives for gamma, and without the product in memory
    zero, one = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    found = torch.ops.aten.native_batch_norm_backward(
        y, x, one, zero, one, None, None, False, 0.0, [False, True, False]
    )
    return found[1].reshape(shape)


class Applied(nn.Module):
    """A function or method with its fixed arguments, as a module of one input."""

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, args, {**kwargs}
        if "inplace" in kwargs:
            self.kwargs["inplace"] = False
        self.name = function if isinstance(function, str) else getattr(function, "__name__", "_")
        self.writes = bool(args) or self.name.endswith("_")

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.function, str):
            return getattr(x, self.function)(*self.args, **self.kwargs)
        return self.function(x, *self.args, **self.kwargs)


class Extended(nn.Module):
    """phi_2: the model with psi at its sites. One graph for training, one for evaluation, parameters shared."""

    def __init__(self, fit: fx.GraphModule, infer: fx.GraphModule, sites: Sequence[Site]) -> None:
        super().__init__()
        self.fit, self.infer, self.sites = fit, infer, tuple(sites)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return (self.fit if self.training else self.infer)(*args, **kwargs)

    def psi(self, site: Site) -> Psi:
        found = self.fit.get_submodule(f"psi_{site.name}")
        assert isinstance(found, Psi)
        return found

    @property
    def deltas(self) -> list[nn.Parameter]:
        """The diagonals of D, one a site."""
        return [self.psi(site).delta for site in self.sites]


def extend(
    model: nn.Module, example_inputs: tuple[Any, ...], *, form: Form = "auto", layers: Sequence[str] = ("*",)
) -> Extended:
    """Embed the model: outputs bit for bit the same, parameters shared with `model`.

    Args:
        form: `auto` takes the strict form wherever dense-act-dense stands, else the relaxed one.
        layers: name patterns of sites, such as "layer1_*" (`Extended.sites` lists the names).

    Raises: TraceError, UsageError (no site), GateError (an output would change: such as an in-place activation
    whose input is read again).
    """
    training = model.training
    try:
        fit, infer = (_graph(model.train(mode)) for mode in (True, False))
        with torch.no_grad():
            ShapeProp(infer).propagate(*example_inputs)
        sites = [s for s in _sites(infer, form) if any(fnmatchcase(s.name, p) for p in layers)]
        if not sites:
            raise UsageError(f"no activation to extend ({form}, {', '.join(layers)}): try form: auto and layers: ['*']")
        if [n.name for n in fit.graph.nodes if _is_activation(n, fit)] != [
            n.name for n in infer.graph.nodes if _is_activation(n, infer)
        ]:
            raise TraceError("the model calls other activations in training than in evaluation; it cannot be extended")
        model.eval()
        with torch.no_grad():
            before = _tensors(model(*example_inputs))
        like = next(p for p in model.parameters() if p.is_floating_point())
        shared: dict[str, Psi] = {}
        for graph in (fit, infer):
            _insert(graph, sites, shared, like)
        extended = Extended(fit, infer, sites).eval()
        with torch.no_grad():
            after = _tensors(extended(*example_inputs))
        if not all(torch.equal(x, y) for x, y in zip(before, after, strict=True)):
            raise GateError("embedding would change the model's outputs: an activation works in place on what is "
                            "read again, or an output is not finite; leave it out with bypass.layers")  # fmt: skip
    finally:
        model.train(training)
    return extended.train(training)


def _graph(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.GraphModule(model, fx.Tracer().trace(model))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        name = type(model).__name__
        raise TraceError(f"{name} cannot be extended: its forward pass cannot be traced: {reason}") from error


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
    return Site(node.name, int(shape[axis]), axis, *(pair or (None, None)))


def _axis(node: fx.Node, graph: fx.GraphModule, dims: int) -> int:
    """Channels lie last behind a dense layer, else second."""
    producer = node.all_input_nodes[0]
    dense = producer.op == "call_module" and isinstance(graph.get_submodule(str(producer.target)), nn.Linear)
    return dims - 1 if dense or dims in (1, 3) else 1


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
    called = sum(other.target == reader.target for other in graph.graph.nodes)
    if not (type(w) is type(a) is nn.Linear and called == 1 and (a.bias is not None or w.bias is None)):
        return None
    return str(first.target), str(reader.target)


def _insert(graph: fx.GraphModule, sites: Sequence[Site], shared: dict[str, Psi], like: Tensor) -> None:
    nodes = {node.name: node for node in graph.graph.nodes}
    for site in sites:
        node = nodes[site.name]
        if site.name not in shared:
            if node.op == "call_module":
                activation = copy.deepcopy(graph.get_submodule(str(node.target)))
                if "inplace" in vars(activation):
                    vars(activation)["inplace"] = False
            else:
                activation = Applied(node.target, tuple(node.args[1:]), dict(node.kwargs))
            shared[site.name] = Psi(activation, site.width, site.axis, like)
        graph.add_submodule(f"psi_{site.name}", shared[site.name])
        with graph.graph.inserting_after(node):
            new = graph.graph.call_module(f"psi_{site.name}", (node.all_input_nodes[0],))
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.recompile()


def _tensors(output: Any) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(output) if isinstance(x, Tensor)]
