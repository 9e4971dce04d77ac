"""A module as a graph whose batch, resolution or sequence is free wherever the model allows it.

What is free is found by trying: a size counts as free where the graph gives what the module gives at other sizes of it.
It writes no file and knows no format.
"""

from __future__ import annotations

import copy
import inspect
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import current_thread, main_thread
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from extcon_cli.channels.compare import Inputs, call, compare, outputs, results, runs
from extcon_cli.channels.modules import evaluating
from extcon_cli.errors import TraceError, first_line

CLOSE = 1e-4
"""Share of the largest output within which a graph gives what its module gives."""
LARGE = 64
"""Pixels from which on another resolution is tried that a multiple of 32 away, else twice as many."""

PATIENCE = 60.0
"""Seconds of computing after which a size counts as not free: windowed attention takes many minutes to say."""

Free = tuple[Mapping[int, str], ...]
"""Of each input, its dimensions that are free and what they are called."""


@dataclass(frozen=True)
class Program:
    """What is exported."""

    module: nn.Module
    """In eval mode; gives a tensor, or a tuple of tensors."""
    example: Inputs
    """Of one sample where the batch is fixed, else of two."""
    graph: ExportedProgram
    free: Free
    names: tuple[str, ...]
    """Of the inputs."""
    structure: TreeSpec
    """Of what the user's module gives."""

    @property
    def tensors(self) -> list[Tensor]:
        """The example's, in order."""
        return list(self.example.values() if isinstance(self.example, Mapping) else self.example)

    @property
    def output_names(self) -> tuple[str, ...]:
        number = self.structure.num_leaves
        return ("output",) if number == 1 else tuple(f"output_{place}" for place in range(number))

    def shapes(self) -> tuple[tuple[str | int, ...], ...]:
        """Of each input: what a free dimension is called, and the sizes of the others."""
        pairs = zip(self.tensors, self.free, strict=True)
        return tuple(tuple(names.get(dim, size) for dim, size in enumerate(t.shape)) for t, names in pairs)

    def restored(self, tensors: Sequence[Tensor]) -> Any:
        """Outputs in the containers that the user's module gives them in."""
        return tree_unflatten(list(tensors), self.structure)


def flat(module: nn.Module) -> nn.Module:
    """A module that gives the same as a tuple of tensors, and takes the same arguments by the same names."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        return tuple(tree_flatten(self.get_submodule("inner")(*args, **kwargs))[0])

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.Signature([own, *inspect.signature(module.forward).parameters.values()])
    vars(forward)["__signature__"] = signature  # what torch.export names the inputs by
    made: nn.Module = type("Flat", (nn.Module,), {"forward": forward})()
    made.inner = module
    return made.eval()


def program(module: nn.Module, example: Inputs) -> Program:
    """Export with all sizes free that may be, then with the batch alone, then with none.

    Args:
        module: on the CPU.
        example: of two samples; tensors only.

    Raises: TraceError (it cannot be exported, or gives what is no tensor).
    """
    module, one = copy.deepcopy(module).eval(), _batch(example, 1)
    example = example if runs(module, example) else one  # it may take one sample alone
    with torch.no_grad(), evaluating(module):
        leaves, structure = tree_flatten(call(module, example))
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise TraceError("the model gives more than tensors, which no exported file can")
    plain = module if structure.is_leaf() else flat(module)
    reason = ""
    for candidate, sample in ((_candidates(example), example), (_batches(example), example), (_fixed(one), one)):
        try:
            with _patience(PATIENCE if any(set(names.values()) - {"batch"} for names in candidate) else None):
                found = _exported(plain, sample, candidate, structure)
        except Exception as error:  # whatever the model's code, or torch.export, makes of a free size
            reason = first_line(error)
            continue
        if works(found.graph.module(), found.module, sample, found.free):
            return found
        reason = "the graph gives other outputs than the model"
    raise TraceError(f"the model cannot be exported: {reason}")


def fixed(module: nn.Module, example: Inputs) -> Program:
    """Export with the sizes of the example, none of them free; what the graph gives is not compared.

    Args:
        module: in eval mode.
        example: tensors only.

    Raises: TraceError (it cannot be exported).
    """
    with torch.no_grad(), evaluating(module):
        structure = tree_flatten(call(module, example))[1]
    try:
        return _exported(module if structure.is_leaf() else flat(module), example, _fixed(example), structure)
    except Exception as error:  # whatever the model's code makes of being traced
        raise TraceError(f"the model cannot be exported: {first_line(error)}") from error


@contextmanager
def _patience(seconds: float | None) -> Iterator[None]:
    """TimeoutError after so many seconds of computing; None: no end. It counts where signals can be caught."""
    if seconds is None or not hasattr(signal, "setitimer") or current_thread() is not main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} s of computing")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def works(run: Callable[..., Any], module: nn.Module, example: Inputs, free: Free) -> bool:
    """Does `run` give what the module gives, at every size that is said to be free?"""
    try:
        for inputs in varied(example, free):
            expected = outputs(module, inputs)
            with torch.no_grad():
                got = results(run(**inputs) if isinstance(inputs, Mapping) else run(*inputs))
            if not compare([(expected, got, 1)]).relative <= CLOSE:
                return False
    except Exception:  # either may refuse the size in its own way
        return False
    return True


def varied(example: Inputs, free: Free, *, seed: int = 0) -> list[Inputs]:
    """Random inputs like the example, and at other sizes of what is free: batches of 1 and 3, another resolution."""
    named = {name for names in free for name in names.values()}
    sizes: list[dict[str, int]] = [{}]
    if "batch" in named:
        sizes += [{"batch": 1}, {"batch": 3}]
    if named - {"batch"}:
        sizes.append(dict.fromkeys(named - {"batch"}, -1))
    generator = torch.Generator().manual_seed(seed)
    return [_like(example, free, size, generator) for size in sizes]


def at_batch(example: Inputs, size: int) -> Inputs:
    """Zeros, and integers as they are, as a batch of another size."""

    def repeated(x: Tensor) -> Tensor:
        first = x[:1] * 0 if x.is_floating_point() else x[:1]
        return first.repeat(size, *(1,) * (x.dim() - 1))

    return _mapped(example, repeated)


def _exported(module: nn.Module, example: Inputs, free: Free, structure: TreeSpec) -> Program:
    tensors = list(example.values() if isinstance(example, Mapping) else example)
    dims = [dict.fromkeys(names, Dim.AUTO) or None for names in free]
    keys = list(example) if isinstance(example, Mapping) else []
    shapes: Any = dict(zip(keys, dims, strict=True)) if keys else tuple(dims)
    with evaluating(module):
        graph = torch.export.export(
            module,
            () if isinstance(example, Mapping) else tuple(tensors),
            dict(example) if isinstance(example, Mapping) else None,
            dynamic_shapes=shapes if any(free) else None,
            strict=False,
        )
    nodes = {node.name: node for node in graph.graph.nodes if node.op == "placeholder"}
    names = tuple(str(name) for name in graph.graph_signature.user_inputs)
    seen = [nodes[name].meta["val"].shape for name in names]
    left = tuple(
        {dim: called for dim, called in mine.items() if not isinstance(shape[dim], int)}
        for mine, shape in zip(free, seen, strict=True)
    )
    return Program(module, example, graph, left, tuple(keys) or names, structure)


def _candidates(example: Inputs) -> Free:
    """What may be free of each input by its kind: an image's height and width, a sequence's length."""

    def of(x: Tensor) -> dict[int, str]:
        if not x.dim():
            return {}
        rest = {4: {2: "height", 3: "width"}, 3: {2: "length"}, 5: {2: "depth", 3: "height", 4: "width"}}
        more = rest.get(x.dim(), {}) if x.is_floating_point() else {1: "sequence"} if x.dim() == 2 else {}
        return {0: "batch", **more}

    return tuple(of(x) for x in _tensors(example))


def _batches(example: Inputs) -> Free:
    return tuple({0: "batch"} if x.dim() else {} for x in _tensors(example))


def _fixed(example: Inputs) -> Free:
    return tuple({} for _ in _tensors(example))


def _like(example: Inputs, free: Free, sizes: Mapping[str, int], generator: torch.Generator) -> Inputs:
    """Random numbers in the example's shape, but of these sizes; -1: another one. Integers are cut or repeated."""
    places = iter(free)

    def drawn(x: Tensor) -> Tensor:
        names, shape = next(places), list(x.shape)
        for dim, name in names.items():
            if name in sizes:
                shape[dim] = sizes[name] if sizes[name] > 0 else _other(shape[dim], floating=x.is_floating_point())
        if x.is_floating_point():
            return torch.randn(shape, generator=generator).to(x.dtype)
        for dim, size in enumerate(shape):
            x = torch.cat([x] * -(-size // x.shape[dim]), dim).narrow(dim, 0, size)
        return x

    return _mapped(example, drawn)


def _other(size: int, *, floating: bool) -> int:
    if not floating:
        return max(2, size // 2)  # there may be no position for a longer sequence
    return size + 32 if size >= LARGE else 2 * size


def _batch(example: Inputs, size: int) -> Inputs:
    return _mapped(example, lambda x: x[:size] if x.dim() else x)


def _tensors(example: Inputs) -> list[Tensor]:
    return list(example.values() if isinstance(example, Mapping) else example)


def _mapped(example: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    if isinstance(example, Mapping):
        return {name: change(x) for name, x in example.items()}
    return tuple(change(x) for x in example)


def batch_only(found: Program) -> Program:
    """The same program exported anew, with nothing free but the batch."""
    free = tuple({dim: name for dim, name in names.items() if name == "batch"} for names in found.free)
    return _exported(found.module, found.example, free, found.structure)


def narrowed(found: Program, run: Callable[..., Any]) -> Program:
    """The program with as much free as `run`, another form of it, allows. TraceError: it gives other outputs."""
    for free in (found.free, tuple({d: n for d, n in names.items() if n == "batch"} for names in found.free)):
        if works(run, found.module, found.example, free):
            return replace(found, free=free)
    fixed = _fixed(found.example)
    if works(run, found.module, found.example, fixed):
        return replace(found, free=fixed)
    raise TraceError("the traced model gives other outputs than the model")
