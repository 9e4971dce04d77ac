"""A forward pass recorded over meta tensors: the operators of torch.export's graph in a fraction of its time.

The module's own code runs once. Its parameters, buffers and inputs are meta tensors, and a dispatch mode notes each
operator before torch takes it apart. No value exists, so code that asks for one fails. What cannot be vouched for
raises `NotRecorded`, and `trace.py` asks torch.export instead: an exception in the model, a tensor that came about
unseen, a tensor subclass, a shape that changes in place.

This rests on torch's internals: the mode stack of the PreDispatch key. A test pins what is used of them.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from extcon_cli.channels.analysis import shapes
from extcon_cli.channels.analysis.callers import Callers, line
from extcon_cli.channels.deferred import Deferred
from extcon_cli.channels.modules import meta_like, named_tensors, open_dataclasses, stand_in, submodules
from extcon_cli.channels.preserving import preserving

PLAIN = (Tensor, nn.Parameter, nn.Buffer)
HELD = (*PLAIN, Deferred)
NOT_TENSORS = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size)


class NotRecorded(Exception):
    """The recorder cannot vouch for this forward pass. `so_far` is what it had recorded."""

    so_far: Recording | None = None


@dataclass(frozen=True)
class Recording:
    """A forward pass. `stored` maps a placeholder's name to the parameter or buffer that it holds.

    `constants` are the tensors that the model's code makes of numbers, by their placeholder's name.
    """

    graph: fx.Graph
    stored: Mapping[str, str]
    inputs: frozenset[str]
    constants: Mapping[str, Tensor]


def record(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Recording:
    """The forward pass in the mode that the modules are in. The module is as before afterwards.

    Raises:
        NotRecorded: it has to be traced otherwise.
    """
    _check(module)
    recorder = _Recorder(module)
    try:
        with preserving(module), recorder.callers, _exporting(), torch.no_grad():
            recorder.put_meta(module)
            inputs = tree_map(recorder.input, (args, dict(kwargs)))
            with torch._C._EnablePythonDispatcher(), recorder:
                output = module(*inputs[0], **inputs[1])
            recorder.output(output)
    except Exception as error:  # whatever the model's code raises where there are no values
        refusal = error if isinstance(error, NotRecorded) else NotRecorded(str(error))
        refusal.so_far = recorder.recording
        raise refusal from error
    return recorder.recording


def _check(module: nn.Module) -> None:
    """Refuse what runs outside Python or holds tensors of its own kind."""
    for child in submodules(module):
        if isinstance(child, torch.jit.ScriptModule):
            raise NotRecorded("a scripted module")
        for tensor in (*child._parameters.values(), *child._buffers.values()):
            if tensor is not None and (type(tensor) not in HELD or tensor.layout != torch.strided):
                raise NotRecorded(f"a {type(tensor).__name__}, {tensor.layout}")


@contextmanager
def _exporting() -> Iterator[None]:
    """Models that ask `torch.compiler.is_exporting()` go the way that they go under torch.export."""
    flags = ("_is_compiling_flag", "_is_exporting_flag")
    before = {name: getattr(torch.compiler, name) for name in flags}
    try:
        for name in flags:
            setattr(torch.compiler, name, True)
        yield
    finally:
        for name, value in before.items():
            setattr(torch.compiler, name, value)


@dataclass
class _Watched:
    """What a tensor of the recording is: its node, and the tensor itself, so that its id stays its own."""

    node: fx.Node
    tensor: Tensor


class _Recorder(SchemaCheckMode):
    """The mode. It takes the place of torch's SchemaCheckMode, the one foreign kind that the PreDispatch key allows."""

    def __init__(self, module: nn.Module) -> None:
        TorchDispatchMode.__init__(self, _dispatch_key=torch._C.DispatchKey.PreDispatch)
        self.graph = fx.Graph()
        self.stored: dict[str, str] = {}
        self.inputs: list[str] = []
        self.callers = Callers(module)
        self.first: fx.Node | None = None  # the first operator
        self.seen: dict[int, _Watched] = {}  # by the id of a meta tensor
        self.made: set[int] = set()  # storages that take no values from elsewhere, such as that of torch.zeros
        self.fresh: dict[int, fx.Node] = {}  # of these the newest, by storage: Python gets a shallow copy
        self.metas: dict[int, Tensor] = {}  # of each real tensor, by its id
        self.reals: list[Tensor] = []  # kept, so that their ids stay their own
        self.constants: dict[str, Tensor] = {}
        self.values: dict[int, Tensor] = {}  # of what is made of such constants alone, by the id of a meta tensor

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the class statement imports torch._dynamo

    def __enter__(self) -> _Recorder:
        TorchDispatchMode.__enter__(self)
        return self

    @property
    def recording(self) -> Recording:
        """What has been recorded so far."""
        return Recording(self.graph, self.stored, frozenset(self.inputs), self.constants)

    # before and after the pass

    def put_meta(self, module: nn.Module) -> None:
        """Meta tensors in the place of all parameters and buffers."""
        for name, tensor in named_tensors(module).items():
            if id(tensor) not in self.metas:
                self._store(name, tensor)
        for child in submodules(module):
            for store in (child._parameters, child._buffers):
                for key, held in store.items():
                    if held is not None:
                        store[key] = self.metas[id(held)]  # type: ignore[assignment]

    def _store(self, name: str, tensor: Tensor) -> None:
        node = self._placeholder(f"p_{name.replace('.', '_')}", tensor, stand_in(tensor))
        self.stored[node.name] = name

    def _placeholder(self, name: str, real: Tensor, meta: Tensor) -> fx.Node:
        """A placeholder before all operators."""
        with nullcontext() if self.first is None else self.graph.inserting_before(self.first):
            node = self.graph.create_node("placeholder", name, name=name)  # `placeholder` works on the name for long
        node.meta["val"] = meta
        self.reals.append(real)
        self.metas[id(real)] = meta
        self.seen[id(meta)] = _Watched(node, meta)
        return node

    def input(self, value: Any) -> Any:
        """The meta tensor that stands for an argument of the forward pass; other values are themselves."""
        if not isinstance(value, Tensor):
            return value
        if type(value) not in PLAIN or value.layout != torch.strided:
            raise NotRecorded(f"an input of type {type(value).__name__}")
        if id(value) not in self.metas:
            node = self._placeholder(f"input_{len(self.inputs)}", value, meta_like(value))
            self.inputs.append(node.name)
        return self.metas[id(value)]

    def output(self, value: Any) -> None:
        """End the graph with the tensors of an output."""
        nodes = []
        for leaf in tree_leaves(open_dataclasses(value)):
            if isinstance(leaf, Tensor):
                nodes.append(self._node(leaf))
            elif not isinstance(leaf, NOT_TENSORS):
                raise NotRecorded(f"an output of type {type(leaf).__name__}")
        self.graph.output(tuple(nodes))

    # during the pass

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
            raise NotRecorded("autocast, which meta tensors do not follow")
        args, kwargs = _mapped((args, dict(kwargs or {})), self._meta)
        tensors = _tensors((args, kwargs))
        if not tensors and any(argument.name == "device" for argument in func._schema.arguments):
            kwargs["device"] = torch.device("meta")
        if func in NUMBERS and id(args[0]) in self.values:
            return self.values[id(args[0])].item()
        sizes = [tensor.shape for tensor in tensors]
        with torch._C._DisablePythonDispatcher():  # shapes in C++, not by torch's references in Python
            result = shapes.known(func, args, kwargs)
            if result is None:
                result = func(*args, **kwargs)
        results = _tensors(result)
        if any(tensor.shape != size for tensor, size in zip(tensors, sizes, strict=True)):
            raise NotRecorded(f"{func} changes a shape in place")
        if func._schema.is_mutable and not any(a is b for a in results for b in tensors):
            raise NotRecorded(f"{func} writes to what it does not return")
        if results:
            node = self._note(func, args, kwargs, result)
            if isinstance(result, Tensor) and (not tensors or func._opname in LIKE):
                self.made.add(_storage(result))
                self.fresh[_storage(result)] = node
            if func._schema.is_mutable:
                self._overwrite(results[0], node)
                self.values.clear()
            elif tensors and all(id(tensor) in self.values for tensor in tensors):
                self._compute(func, args, kwargs, result)
        return result

    def _compute(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """The values of what is made of constants of the model: `anchors(self.strides[0])` asks for their numbers."""

        def value(leaf: Any) -> Any:
            return self.values[id(leaf)] if isinstance(leaf, Tensor) else leaf

        if isinstance(result, Tensor) and result.numel() <= MOST_VALUES and "device" not in kwargs:
            with torch._C._DisableTorchDispatch():
                self.values[id(result)] = func(*tree_map(value, args), **tree_map(value, kwargs))

    def _overwrite(self, written: Tensor, node: fx.Node) -> None:
        """Whatever else lies over memory that was made here and written to is another value from now on."""
        if (storage := _storage(written)) not in self.made:
            return  # where it matters, trace.py sees it
        for other in [seen for seen in self.seen.values() if seen.tensor is not written]:
            if _storage(other.tensor) == storage:
                after = self.graph.call_function(overwritten, (other.node, node))
                after.meta.update(node.meta, val=other.tensor)
                self.seen[id(other.tensor)] = _Watched(after, other.tensor)

    def _meta(self, value: Tensor) -> Tensor:
        """The meta tensor that stands for an argument of an operator; a real tensor is a constant of the model."""
        if id(value) in self.seen:
            return value
        if id(value) in self.metas:
            return self.metas[id(value)]
        if type(value) not in PLAIN or (value.device.type == "meta" and _storage(value) not in self.fresh):
            raise NotRecorded("a tensor of unknown origin")
        if value.device.type == "meta":
            self.seen[id(value)] = _Watched(self.fresh.pop(_storage(value)), value)
            return value
        meta = meta_like(value)
        node = self._placeholder(f"constant_{len(self.constants)}", value, meta)
        self.constants[node.name] = value
        if value.numel() <= MOST_VALUES:
            self.values[id(meta)] = value
        return meta

    def _node(self, tensor: Tensor) -> fx.Node:
        return self.seen[id(self._meta(tensor))].node

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> fx.Node:
        def node_of(value: Tensor) -> fx.Node:
            return self.seen[id(value)].node

        node = self.graph.call_function(func)
        node.args, node.kwargs = _mapped((args, kwargs), node_of)  # given above, torch would walk through them
        node.meta.update(val=result, nn_module_stack=self.callers.stack, stack_trace=line(__file__))
        self.first = self.first or node
        self._see(result, node)
        return node

    def _see(self, result: Any, node: fx.Node) -> None:
        """Note which node gave these tensors, those too that an operator returned as it got them."""
        if isinstance(result, Tensor):
            self.seen[id(result)] = _Watched(node, result)
            return
        for place, part in enumerate(result):
            if part is not None:
                taken = self.graph.call_function(operator.getitem, (node, place))
                taken.meta.update(node.meta, val=part)
                self._see(part, taken)


def overwritten(before: Tensor, written: Tensor) -> Tensor:
    """Stands in a graph for a tensor, part of whose memory was written to through another one. Never called."""
    raise NotImplementedError


LIKE = ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")
"""Operators that take nothing from their argument but its kind."""
NUMBERS = {torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default}
MOST_VALUES = 1000  # numbers of a constant that the model's code may ask for


def _mapped(value: Any, of: Callable[[Tensor], Any]) -> Any:
    """An operator's arguments with each tensor exchanged; torch's tree_map takes longer than the operator."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([
            of(part) if isinstance(part, Tensor) else _mapped(part, of) if type(part) in NESTED else part
            for part in value
        ])  # fmt: skip
    if kind is dict:
        return {key: _mapped(part, of) for key, part in value.items()} if value else {}
    return of(value) if isinstance(value, Tensor) else value


NESTED = {tuple, list, dict}
"""Kinds of containers among the arguments of operators."""


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in an operator's arguments, or in what it returns."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ():
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, (tuple, list, dict)) and part:
            found += _tensors(part)
    return found


def _storage(tensor: Tensor) -> int:
    """What two tensors over the same memory have in common, though it holds nothing."""
    return tensor.untyped_storage()._cdata
