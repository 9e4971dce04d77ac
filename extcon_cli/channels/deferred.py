"""Tensors whose numbers are made when an operator reads them, and forgotten after: a copy of a module takes no memory.

A deferred tensor knows what it is made of (a tensor that lies in a file, mapped into memory) and what was done to it
since: channels set to zero, cut off, scaled, cast. So a forward pass holds the numbers of one layer at a time. The
price is that they are made anew for every pass. Gradients do not reach what it is made of. A view of one
(`tensor[2:5]`) is deferred too, and what is written to it is written to the tensor; what was copied to one
(`tensor.copy_(other)`) has to stay as it is.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from extcon_cli.channels.modules import named_tensors

ATEN = torch.ops.aten
CPU = torch.device("cpu")
SMALL = 1 << 16
"""Numbers of a tensor that is not worth deferring: biases, norms."""
NEW = {ATEN.clone.default, ATEN.index_select.default}
"""Operators whose result shares no memory with what they read."""
LATER = {*NEW, ATEN._to_copy.default}
"""Operators that are put off themselves where their first argument is deferred."""


Make = Callable[[], Tensor]
"""Makes the numbers of a tensor."""
Look = Callable[[Tensor], Tensor]
"""Gives a view of a tensor."""
Reader = Callable[[str, Tensor], Make | None]
"""What makes the tensor of this name, beside the tensor itself."""


class Deferred(Tensor):
    """A tensor of a known shape and type that is made when it is read."""

    __slots__ = ("make", "origin")
    make: Make
    """Its numbers; they may be those of another tensor, and are not to be written to."""
    origin: tuple[Deferred, Look] | None
    """Of a view: what it is a view of, and how it is got from that."""

    @staticmethod
    def __new__(cls, make: Make, like: Tensor) -> Deferred:
        """
        Args:
            make: gives the numbers.
            like: of the same shape and type; it may be on the meta device.
        """
        made: Deferred = Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype, device=CPU)
        made.make, made.origin = make, None
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # whose types are not said
        return f"Deferred({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Deferred:
        if id(self) not in memo:
            copied = Deferred(_kept(self), self)
            memo[id(self)] = _as_parameter(copied, self) if isinstance(self, nn.Parameter) else copied
        return cast(Deferred, memo[id(self)])

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch says a function where it calls a method of the class
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view and isinstance(args[0], Deferred):
            return _viewed(func, args[0], args[1:], kwargs)
        if func in LATER and kwargs.get("device") in (None, CPU):
            first, *others = args
            like = func(_meta(first), *tree_map(_meta, others), **kwargs)
            return Deferred(partial(_done, func, _kept(first), others, kwargs), like)
        if func is ATEN._foreach_mul_.List:
            for tensor, factor in zip(*args, strict=True):
                tensor.mul_(factor)
            return None
        if func._schema.is_mutable and isinstance(args[0], Deferred):
            first, *others = args
            if func is ATEN.copy_.default and first.origin is None and others[0].shape == first.shape:
                first.make = partial(_cast, _as_it_is(others[0]), first.dtype)
                return first
            _change(first, partial(_write, func, tree_map(_as_it_is, others), kwargs))
            return first
        if kwargs.get("device") == torch.device("meta"):
            return func(*tree_map(_meta, args), **kwargs)
        return func(*tree_map(_now, args), **tree_map(_now, kwargs))


def defer(module: nn.Module, dtype: torch.dtype, reader: Reader | None = None) -> None:
    """Put deferred tensors in the place of a module's own, in another type; those of few numbers are cast at once.

    Args:
        module: on the CPU; without a `reader` its tensors have to stay as they are.
        dtype: of all tensors of floating numbers.
        reader: what makes a tensor of this name, which is given; None: nothing but itself does.
    """
    known: dict[int, Tensor] = {}
    for name, tensor in named_tensors(module).items():
        if id(tensor) not in known:
            make = reader(name, tensor.detach()) if reader is not None and tensor.numel() > SMALL else None
            known[id(tensor)] = _deferred(tensor, dtype, make)
    for child in module.modules():
        for store in (child._parameters, child._buffers):
            for key, held in store.items():
                if held is not None:
                    store[key] = known[id(held)]  # type: ignore[assignment]


def _deferred(held: Tensor, dtype: torch.dtype, make: Make | None) -> Tensor:
    """What stands for a tensor in this type."""
    wanted, found = dtype if held.is_floating_point() else held.dtype, held.detach()
    if make is None and not isinstance(held, Deferred) and held.numel() > SMALL:
        make = partial(_itself, found)
    if make is not None:
        found = Deferred(make, found)
    found = found.to(wanted, copy=True)
    return _as_parameter(found, held) if isinstance(held, nn.Parameter) else found


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return dense(tensor).to(dtype)


def is_deferred(module: nn.Module) -> bool:
    """Does it hold tensors that are made when they are read?"""
    return any(isinstance(parameter, Deferred) for parameter in module.parameters())


def dense(tensor: Tensor) -> Tensor:
    """The tensor, or a plain one with the numbers of a deferred one."""
    return tensor.make() if isinstance(tensor, Deferred) else tensor


def _as_parameter(tensor: Tensor, like: Tensor) -> Tensor:
    found = nn.Parameter(tensor, requires_grad=like.requires_grad)
    if isinstance(tensor, Deferred) and isinstance(found, Deferred):
        found.make, found.origin = _kept(tensor), None  # torch made it a view
    vars(found).update(vars(like))
    return found


def _now(leaf: Any) -> Any:
    return leaf.make() if isinstance(leaf, Deferred) else leaf


def _as_it_is(leaf: Any) -> Any:
    """A deferred tensor that does not change when this one is written to."""
    return Deferred(_kept(leaf), leaf) if isinstance(leaf, Deferred) else leaf


def _kept(tensor: Deferred) -> Make:
    """What makes the numbers that it has now, whatever is written to it later."""
    if tensor.origin is None:
        return tensor.make
    base, look = tensor.origin
    return partial(_looked, _kept(base), look)


def _viewed(func: Any, base: Deferred, others: Any, kwargs: Any) -> Any:
    """The view, or the views, that an operator gives of a deferred tensor."""
    likes = func(_meta(base), *others, **kwargs)
    if isinstance(likes, Tensor):
        return _view(base, partial(_see, func, others, kwargs), likes)
    return [_view(base, partial(_see_one, func, others, kwargs, place), like) for place, like in enumerate(likes)]


def _view(base: Deferred, look: Look, like: Tensor) -> Deferred:
    made = Deferred(partial(_now_of, base, look), like)
    made.origin = base, look
    return made


def _change(tensor: Deferred, change: Callable[[Tensor], None]) -> None:
    """Note what is written to a deferred tensor; of a view, to what it is a view of."""
    if tensor.origin is None:
        tensor.make = partial(_changed, tensor.make, change)
    else:
        base, look = tensor.origin
        _change(base, partial(_through, look, change))


def _meta(leaf: Any) -> Any:
    return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta") if isinstance(leaf, Tensor) else leaf


def _done(func: Any, make: Make, others: Any, kwargs: Any) -> Tensor:
    result: Tensor = func(make(), *others, **kwargs)
    return result


def _is_new(make: Make) -> bool:
    """Whether nobody else holds what this makes."""
    return isinstance(make, partial) and (make.func is _changed or (make.func is _done and make.args[0] in NEW))


def _changed(make: Make, change: Callable[[Tensor], None]) -> Tensor:
    numbers = make() if _is_new(make) else make().clone()
    change(numbers)
    return numbers


def _write(func: Any, others: Any, kwargs: Any, numbers: Tensor) -> None:
    func(numbers, *tree_map(_now, others), **kwargs)


def _through(look: Look, change: Callable[[Tensor], None], numbers: Tensor) -> None:
    change(look(numbers))


def _see(func: Any, others: Any, kwargs: Any, numbers: Tensor) -> Tensor:
    seen: Tensor = func(numbers, *others, **kwargs)
    return seen


def _see_one(func: Any, others: Any, kwargs: Any, place: int, numbers: Tensor) -> Tensor:
    seen: Tensor = func(numbers, *others, **kwargs)[place]
    return seen


def _looked(make: Make, look: Look) -> Tensor:
    return look(make())


def _now_of(base: Deferred, look: Look) -> Tensor:
    return look(base.make())
