"""Measure, never trust: how far the outputs of two modules differ, on the same inputs.

Says what it measured; what is too much is for the caller to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from extcon_cli.channels.deferred import defer, is_deferred
from extcon_cli.channels.modules import evaluating
from extcon_cli.channels.preserving import duplicate, preserving

Inputs = tuple[Any, ...] | Mapping[str, Any]
"""The arguments of a forward pass: positional, or by name. They may hold dicts and lists of tensors."""

Examples = Inputs | list[Inputs]
"""One set of arguments, or a list of several: of resolutions, tasks or methods that reach other parts of a model."""

EXACT = 1e-5  # of the largest output, float32
EXACT_DOUBLE = 1e-10
EXTREME = 1e4  # a number this large that is the same in both may be a mask's, and is no measure for the others

ROUNDED = 1e-3  # the share of integer outputs that rounding in float32 may move: pixels that a model gives as bytes


@dataclass(frozen=True)
class Difference:
    """Outputs of two modules beside each other, each held to its own scale; the figures of the worst one.

    Set aside is what agrees exactly and says nothing of the size of the others: NaN, infinite, or at least `EXTREME`
    in both (-1e9 or finfo.min where a mask is). Integers, booleans and Python's numbers are compared for equality.
    """

    largest: float  # largest absolute difference, in the output that it is the largest share of
    scale: float  # largest absolute number of that output in the first module, without what is set aside
    agreement: float  # share of arg-max over the last dimension that are the same
    samples: int
    outputs: int  # tensors and numbers that a forward pass gives
    compared: int  # finite elements of the first module, all batches and outputs together
    set_aside: int
    labels: int  # integers and booleans
    unequal: int  # of them
    overall: float  # the largest difference of all outputs, as a share of the largest scale of all

    @property
    def relative(self) -> float:
        """The largest difference as a share of its output's scale, or the share of labels that moved, if larger.

        Infinite where nothing has been compared: that is no evidence of anything.
        """
        if not self.compared + self.labels:
            return float("inf")
        return max(self.moved, self.unequal / self.labels if self.labels else 0.0)

    @property
    def moved(self) -> float:
        """The same for floating outputs alone."""
        return self.largest / self.scale if self.scale > 0 else self.largest


def difference(first: nn.Module, second: nn.Module, batches: Iterable[Inputs]) -> Difference:
    """Run both in eval mode on the same batches and compare every output."""
    return compare((outputs(first, batch), outputs(second, batch), batch_size(batch)) for batch in batches)


def at_batch(module: nn.Module, example: Inputs, size: int) -> Inputs:
    """The first sample of the example, `size` times, as the module computes and where it is."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))

    def repeated(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        first = value[:1].expand(size, *value.shape[1:]).contiguous() if value.dim() else value
        return first.to(like) if value.is_floating_point() else first.to(like.device)

    inputs: Inputs = tree_map(repeated, example)
    return inputs


@torch.no_grad()
def outputs(module: nn.Module, inputs: Inputs, *, double: bool = False) -> list[Tensor]:
    """All output tensors of a forward pass in eval mode.

    Random numbers are the same each time, and none are taken from the user's generator. A module in float64 computes
    in it throughout: what its own code casts to float32 (the norms of Llama and T5, RAFT) would hide behind rounding.
    With `double` a module in float32 does so too, layer by layer.
    """
    with preserving(module), evaluating(module), _throughout(module), layers_in_double() if double else nullcontext():
        torch.default_generator.manual_seed(0)
        return results(call(module, inputs))


def compare(runs: Iterable[tuple[list[Tensor], list[Tensor], int]]) -> Difference:
    """Outputs of two modules beside each other, batch by batch, with the number of samples in each."""
    measures: dict[int, _Measure] = {}
    samples = 0
    for first, second, number in runs:
        samples += number
        if [(a.shape, a.dtype) for a in first] != [(b.shape, b.dtype) for b in second]:
            return Difference(float("inf"), 0.0, 0.0, samples, len(first), 1, 0, 0, 0, float("inf"))
        for place, (a, b) in enumerate(zip(first, second, strict=True)):
            if a.numel():
                measures.setdefault(place, _Measure()).add(a, b)
    each = list(measures.values())
    worst = max(each, key=lambda one: (one.moved, one.scale), default=_Measure())
    rows = sum(one.rows for one in each)
    return Difference(
        worst.largest,
        worst.scale,
        sum(one.agree for one in each) / rows if rows else 1.0,
        samples,
        len(measures),
        sum(one.compared for one in each),
        sum(one.set_aside for one in each),
        sum(one.labels for one in each),
        sum(one.unequal for one in each),
        _Measure(max((m.largest for m in each), default=0.0), max((m.scale for m in each), default=0.0)).moved,
    )


@dataclass
class _Measure:
    """What is known of one output after some batches."""

    largest: float = 0.0
    scale: float = 0.0
    compared: int = 0
    set_aside: int = 0
    labels: int = 0
    unequal: int = 0
    agree: int = 0
    rows: int = 0

    @property
    def moved(self) -> float:
        return self.largest / self.scale if self.scale > 0 else self.largest

    def add(self, a: Tensor, b: Tensor) -> None:
        if not (a.is_floating_point() or a.is_complex()):
            self.labels += a.numel()
            self.unequal += int((a != b).sum())
            return
        same = (a == b) | (a.isnan() & b.isnan())
        finite = a.isfinite()
        aside = same & (~finite | (a.abs() >= EXTREME))
        gap = (a - b).abs().masked_fill(same, 0.0).max().item()
        self.largest = max(self.largest, gap if gap == gap else float("inf"))
        self.scale = max(self.scale, a.abs().masked_fill(aside | ~finite, 0.0).max().item())
        self.compared += int(finite.sum())
        self.set_aside += int(aside.sum())
        if a.dim() > 0 and a.shape[-1] > 1 and not a.is_complex():
            self.agree += int((a.argmax(-1) == b.argmax(-1)).sum())
            self.rows += a[..., 0].numel()


def call(module: nn.Module, inputs: Inputs) -> Any:
    """A forward pass with arguments by position or by name."""
    return module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)


def each_example(examples: Examples) -> list[Inputs]:
    """The examples one by one."""
    return examples if isinstance(examples, list) else [examples]


def batch_size(inputs: Inputs) -> int:
    """The first length of the first tensor among the inputs; 1 where there is none."""
    return next((len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()), 1)


def runs(module: nn.Module, inputs: Inputs, *, training: bool = False) -> bool:
    """Whether a forward pass goes through."""
    with preserving(module), evaluating(module), _throughout(module), torch.no_grad():
        module.train(training)
        try:
            call(module, inputs)
        except Exception:  # whatever the model's own code raises
            return False
    return True


class _Double(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every cast to float32 becomes one to float64, and what an operator reads is widened."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports torch._dynamo

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") == torch.float32:
            kwargs["dtype"] = torch.float64
        declared = func._schema.arguments if isinstance(func, OpOverload) else ()
        written = {one.name for one in declared if one.alias_info is not None and one.alias_info.is_write}
        names = [one.name for one in declared][: len(args)]
        args = [
            value if name in written else tree_map(_wide, value)
            for name, value in zip_longest(names, args, fillvalue="")
        ]
        return func(*args, **{name: v if name in written else tree_map(_wide, v) for name, v in kwargs.items()})


def _wide(value: Any) -> Any:
    narrow = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.double() if narrow else value


def _throughout(module: nn.Module) -> AbstractContextManager[Any]:
    """The context in which a module in float64 computes in nothing less."""
    wide = any(parameter.dtype == torch.float64 for parameter in module.parameters())
    return _Double() if wide else nullcontext()  # type: ignore[no-untyped-call]


@contextmanager
def layers_in_double() -> Iterator[None]:
    """Modules hold their own tensors in float64 while their forward pass runs, and as they were afterwards.

    So a model is never in memory as a whole in float64.
    """
    held: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []

    def enter(child: nn.Module, _: object) -> None:
        held.append((child, dict(child._parameters), dict(child._buffers)))
        for store in (child._parameters, child._buffers):
            store.update({key: _wide(tensor) for key, tensor in store.items()})
        _refresh(child)

    def leave(*_: object) -> None:
        child, parameters, buffers = held.pop()
        child._parameters.update(parameters)
        child._buffers.update(buffers)
        _refresh(child)

    with ExitStack() as hooks, _Double():  # type: ignore[no-untyped-call]
        hooks.callback(nn.modules.module.register_module_forward_pre_hook(enter).remove)
        hooks.callback(nn.modules.module.register_module_forward_hook(leave, always_call=True).remove)
        yield


def _refresh(module: nn.Module) -> None:
    if isinstance(module, nn.RNNBase):  # keeps its weights in a list besides
        module._flat_weights = [module._parameters.get(name) for name in module._flat_weights_names]


def random_batches(
    example: Inputs,
    *,
    sizes: Sequence[int] = (1, 3),
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Iterator[Inputs]:
    """Normal random inputs shaped like the example, at several batch sizes; integers are taken as they are.

    So are masks of floating numbers, infinite or so large that they stand for it. A first length that is neither one
    nor the batch of the example stays.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = batch_size(example)
    for size in sizes:
        yield tree_map(partial(_random, batch=batch, size=size, generator=generator, dtype=dtype), example)


def _random(value: Any, *, batch: int, size: int, generator: torch.Generator, dtype: torch.dtype | None) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    shape = (size if len(value) in (1, batch) else len(value), *value.shape[1:])
    wanted = dtype if dtype is not None and value.is_floating_point() else value.dtype
    if not value.is_floating_point() or bool((value.abs() >= EXTREME).any()):
        return value.to(wanted) if len(value) == shape[0] else value[:1].to(wanted).expand(shape)
    return torch.randn(shape, generator=generator).to(value.device, wanted)


def in_double(module: nn.Module) -> nn.Module:
    """A copy of the module on the CPU in float64."""
    copied = duplicate(module)
    if not is_deferred(copied):
        return copied.cpu().double()
    defer(copied, torch.float64)
    return copied


def tensors_in(output: Any) -> list[Tensor]:
    """All real and complex tensors of an output, in order, through whatever containers torch.export knows."""
    leaves = tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())]


def results(output: Any) -> list[Tensor]:
    """Everything in an output that can differ, in order: tensors of any type, and Python's numbers as tensors.

    Containers are those that torch.export knows, and objects that hold tensors in their attributes (dataclasses).
    """
    found: list[Tensor] = []
    seen: set[int] = set()

    def gather(value: Any) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                found.append(leaf.to_dense() if leaf.layout != torch.strided else leaf)
            elif isinstance(leaf, (bool, int, float, complex)):
                found.append(torch.tensor(leaf, dtype=torch.float64 if isinstance(leaf, float) else None))
            elif hasattr(leaf, "__dict__") and not isinstance(leaf, (type, nn.Module)) and id(leaf) not in seen:
                seen.add(id(leaf))
                gather(list(vars(leaf).values()))

    gather(output)
    return found
