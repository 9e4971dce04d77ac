"""A module as an ATen graph with parameter names, free of mutation seen through views.

The graph is recorded over meta tensors where that can be vouched for (recorder.py), else torch.export makes it.

Knows nothing of channels: it only says which node holds which parameter, and in which line of the model a node
came to be.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from extcon_cli.channels.analysis.operator import Operator
from extcon_cli.channels.analysis.shown import shown
from extcon_cli.channels.modules import evaluating, named_tensors, open_dataclasses
from extcon_cli.channels.preserving import preserving
from extcon_cli.errors import TraceError, first_line, typed_line


@dataclass(frozen=True)
class Graph:
    """The traced forward pass. `stored` maps a placeholder's node name to the parameter or buffer it holds.

    `changing` names the buffers that the forward pass writes to: their values are not constants. `inputs` are the
    placeholders of the model's own arguments, `constants` those of tensors that it makes of numbers, with the tensors.
    """

    nodes: tuple[fx.Node, ...]
    stored: Mapping[str, str]
    changing: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    exported: bool = False  # by torch.export, not the recorder
    apart: bool = False  # torch.export has taken operators apart, since memory is written to through views

    @property
    def unread(self) -> set[str]:
        """The stored matrices and kernels that no operator reads."""
        held = [node for node in self.nodes if node.name in self.stored and node.meta["val"].dim() > 1]
        return {self.stored[node.name] for node in held} - {self.stored[node.name] for node in held if node.users}


class NotTraced(TraceError):
    """The recorder cannot vouch for a forward pass. `so_far` is the graph up to where it gave up."""

    so_far: Graph | None = None


Tracer = Callable[[nn.Module, tuple[Any, ...] | Mapping[str, Any]], Graph]


def trace(module: nn.Module, inputs: tuple[Any, ...] | Mapping[str, Any], *, exported: bool = False) -> Graph:
    """The module's forward pass in eval mode as a flat graph of ATen operators; inputs by position or by name.

    What runs in training only, such as auxiliary heads, is part of it where that leaves weights unread. `exported`
    asks for torch.export's graph, to be compared with another one of its kind.

    Raises:
        TraceError: torch.export cannot follow the forward pass, for example data-dependent control flow.
    """
    return _with_training_only(module, inputs, _exported if exported else _traced)


def retrace(module: nn.Module, inputs: tuple[Any, ...] | Mapping[str, Any], like: Graph) -> Graph:
    """The graph of a changed module, by the tracer that made the first one.

    Raises:
        TraceError: that cannot follow the forward pass any more; of the recorder `NotTraced`, with what it saw.
    """
    return _with_training_only(module, inputs, partial(_exported, apart=like.apart) if like.exported else _recorded)


def _with_training_only(module: nn.Module, inputs: tuple[Any, ...] | Mapping[str, Any], tracer: Tracer) -> Graph:
    """The forward pass in eval mode, and of that in training mode what reads weights that are left over."""
    with evaluating(module), shown(module):
        graph = tracer(module, inputs)
        if graph.unread:
            for child in module.modules():  # layers stay in eval mode, so that nothing is drawn or averaged
                child.training = any(child.children()) and not type(child).__module__.startswith("torch.nn.")
            with suppress(TraceError):
                return _grafted(graph, (_traced if tracer in (_traced, _recorded) else tracer)(module, inputs))
    return graph


def _grafted(graph: Graph, other: Graph) -> Graph:
    """The graph with those operators of another one that read what it leaves unread, and what these read besides."""
    new = {node for node in other.nodes if other.stored.get(node.name) in graph.unread}
    for node in other.nodes:
        if not new.isdisjoint(node.all_input_nodes):
            new.add(node)
    needed = set(new)
    for node in reversed(other.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    there = {_named(graph, node): node for node in graph.nodes}
    found: dict[fx.Node, fx.Node] = {}
    *_, output = graph.nodes
    with output.graph.inserting_before(output):
        for node in (node for node in other.nodes if node in needed and node.op != "output"):
            same = there.get(_named(other, node, found))
            found[node] = output.graph.node_copy(node, found.__getitem__) if same is None else same
    results = [found[node] for node in other.nodes[-1].all_input_nodes if node in new]
    output.args = ([*output.all_input_nodes, *results],)
    constants = {found[node].name: other.constants[node.name] for node in found if node.name in other.constants}
    return replace(
        graph,
        nodes=tuple(output.graph.nodes),
        changing=graph.changing | other.changing,
        constants={**graph.constants, **constants},
    )


def _named(graph: Graph, node: fx.Node, found: Mapping[fx.Node, fx.Node] | None = None) -> str:
    """What a node is: the same operator on the same values is the same; a constant is like no other."""
    if node.op == "placeholder":
        return graph.stored.get(node.name, node.name if node.name in graph.inputs else f"{id(node)}")
    arguments = (node.args, node.kwargs) if found is None else fx.map_arg((node.args, node.kwargs), found.__getitem__)
    return f"{node.target} {arguments}"


def _traced(module: nn.Module, inputs: tuple[Any, ...] | Mapping[str, Any]) -> Graph:
    """The forward pass in the mode that the modules are in: recorded where that can be vouched for, else exported.

    Raises:
        TraceError: as `trace`.
    """
    try:
        return _recorded(module, inputs)
    except NotTraced:
        return _exported(module, inputs)


def _recorded(module: nn.Module, inputs: tuple[Any, ...] | Mapping[str, Any]) -> Graph:
    """What the recorder vouches for.

    Raises:
        NotTraced: it does not, or torch's internals are others.
    """
    try:
        from extcon_cli.channels.analysis.recorder import NotRecorded, Recording, record
    except ImportError as error:
        raise NotTraced(typed_line(error)) from error

    def graph_of(recording: Recording, written: Collection[str] = ()) -> Graph:
        changing = frozenset(recording.stored[name] for name in written if name in recording.stored)
        return Graph(tuple(recording.graph.nodes), recording.stored, changing, recording.inputs, recording.constants)

    try:
        recording = record(module, *((), inputs) if isinstance(inputs, Mapping) else (inputs, {}))
    except NotRecorded as error:
        refusal = NotTraced(first_line(error))
        refusal.so_far = None if error.so_far is None else graph_of(error.so_far)
        raise refusal from error
    seen_later, written = _mutations(recording.graph)
    if seen_later:
        raise NotTraced("memory is written to through a view")
    _drop_unused(recording.graph, recording.stored)
    return graph_of(recording, written)


def _exported(module: nn.Module, inputs: tuple[Any, ...] | Mapping[str, Any], *, apart: bool = False) -> Graph:
    """The forward pass in the mode that the modules are in; operators taken apart if asked for, or where they have to.

    Raises:
        TraceError: as `trace`.
    """
    try:
        args, named = ((), dict(inputs)) if isinstance(inputs, Mapping) else (inputs, {})
        # on a refusal torch prints its whole graph to stderr
        with (
            preserving(module),
            _opened_outputs(module),
            torch.no_grad(),
            redirect_stderr(StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)  # they are put back: preserving.py
            program = torch.export.export(module, args, named, strict=False)
        seen_later, written = _mutations(program.graph)
        if seen_later or apart:
            program = program.run_decompositions({})
        _drop_unused(program.graph, {spec.arg.name for spec in program.graph_signature.input_specs})
    except Exception as error:
        reason = typed_line(error)
        needed = "extcon needs a forward pass without data-dependent control flow"
        if "Cache'" in reason:  # transformers' language models, unless told otherwise
            needed = "set model.config.use_cache = False"
        raise TraceError(
            f"the forward pass of {type(module).__name__} cannot be traced: {reason}{_where(error)}; {needed}"
        ) from error
    if unsized := next((node for node in program.graph.nodes if not _sized(node)), None):
        raise TraceError(
            f"the forward pass of {type(module).__name__} cannot be traced: the size of a value depends on the numbers "
            f"in others in {Operator(unsized).where}"
        )
    canonical = _canonical_names(module)
    stored = {
        spec.arg.name: canonical.get(spec.target, spec.target)
        for spec in program.graph_signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None
    }
    changing = frozenset(stored[name] for name in written if name in stored)
    inputs_named = frozenset(program.graph_signature.user_inputs)
    constants = {
        spec.arg.name: program.constants[spec.target]
        for spec in program.graph_signature.input_specs
        if spec.kind == InputKind.CONSTANT_TENSOR and spec.target is not None
    }
    return Graph(
        tuple(program.graph.nodes), stored, changing, inputs_named, constants, exported=True, apart=seen_later or apart
    )


def _drop_unused(graph: fx.Graph, stored: Collection[str]) -> None:
    """Take out what nothing reads, but for layers: they run all the same, and have to fit what they read."""
    for node in reversed(graph.nodes):
        if not node.users and not node.is_impure() and all(read.name not in stored for read in node.all_input_nodes):
            graph.erase_node(node)


@contextmanager
def _opened_outputs(module: nn.Module) -> Iterator[None]:
    """Let dataclasses come out of a forward pass as dicts, which torch.export takes."""
    forward = module.forward

    @wraps(forward)
    def opened(*args: Any, **kwargs: Any) -> Any:
        return open_dataclasses(forward(*args, **kwargs))

    own = vars(module).get("forward")
    module.forward = opened
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _sized(node: fx.Node) -> bool:
    """Whether the tensors of a node have sizes that are numbers."""
    values = node.meta.get("val")
    tensors = [v for v in (values if isinstance(values, (list, tuple)) else [values]) if isinstance(v, Tensor)]
    return all(isinstance(size, int) for tensor in tensors for size in tensor.shape)


def _canonical_names(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor, so that tied weights are one."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(module).items()}


def _mutations(graph: fx.Graph) -> tuple[bool, set[str]]:
    """Whether an in-place operator changes memory that another node, used later, sees as well; what is written to.

    torch.export's graph names the result of an in-place operator, so that plain chains (conv, relu_) are
    functional already. Only aliases of the changed memory are not.
    """
    seen_later = False
    written: set[str] = set()
    memory: dict[fx.Node, set[fx.Node]] = {}
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        memory[node] = {node}
        if node.op != "call_function":
            continue
        changed, aliased = _aliases(node)
        for other in [*changed, *aliased]:
            merged = memory[other] | memory[node]
            for member in merged:
                memory[member] = merged
        for target in changed:
            written |= {member.name for member in memory[target] if member.op == "placeholder"}
            seen_by = memory[target] - {node, target} if target.op == "call_function" else {target}
            users = [
                user for other in (*seen_by, target) for user in other.users if Operator(user).name != "overwritten"
            ]
            seen_later |= any(order[user] > order[node] for user in users)
    return seen_later, written


def _aliases(node: fx.Node) -> tuple[Sequence[fx.Node], Sequence[fx.Node]]:
    """The arguments that a node writes to, and those whose memory its result may share."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # operator.getitem: an element shares the memory of the list that it is taken from
        return (), [read for read in node.all_input_nodes if not _gives_several(read)]
    changed: list[fx.Node] = []
    aliased: list[fx.Node] = []
    for position, parameter in enumerate(schema.arguments):
        if parameter.alias_info is None or position >= len(node.args):
            continue
        values = node.args[position]
        nodes = values if isinstance(values, (list, tuple)) else [values]
        (changed if parameter.alias_info.is_write else aliased).extend(
            value for value in nodes if isinstance(value, fx.Node)
        )
    return changed, aliased


def _gives_several(node: fx.Node) -> bool:
    """Whether it returns several tensors of their own, as topk does."""
    returns = node.target._schema.returns if isinstance(node.target, torch._ops.OpOverload) else ()
    return len(returns) > 1 and all(each.alias_info is None for each in returns)


def _where(error: Exception) -> str:
    """The last line of the user's own code in an export failure, if it says one."""
    frames = []
    trail = error.__traceback__
    while trail is not None:
        frames.append((trail.tb_frame.f_code.co_filename, trail.tb_lineno, trail.tb_frame.f_code.co_name))
        trail = trail.tb_next
    user = [frame for frame in frames if frame[2] == "forward" and "/torch/" not in frame[0]]
    return f" (in {user[-1][0].rsplit('/', 1)[-1]}, line {user[-1][1]})" if user else ""
