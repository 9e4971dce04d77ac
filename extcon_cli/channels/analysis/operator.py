"""An operator of the graph as the rules see it: its arguments typed, and what is known of them.

An argument is named by its position or by its name in the operator's schema, however it was passed. Nothing here knows
what any operator does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NoReturn, TypeGuard

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from extcon_cli.channels.analysis.axes import Analysis, Axis, Consumer, Value
from extcon_cli.channels.analysis.known import Known, unknown

Argument = int | str


def holds_tensor(value: object) -> TypeGuard[fx.Node]:
    """Whether it is a value of the graph, and one tensor."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


def shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of the tensor that a node holds."""
    return tuple(int(size) for size in node.meta["val"].shape)


def dtype(node: fx.Node) -> torch.dtype:
    """The type of the numbers in the tensor that a node holds."""
    found: torch.dtype = node.meta["val"].dtype
    return found


class NotLiteral(TypeError):
    """An argument is no literal of the kind that a rule needs: the model computes it, or passes something else."""


@dataclass(frozen=True)
class _Declared:
    """What an operator's schema says of an argument."""

    name: str
    position: int
    has_default: bool
    default: Any


@cache
def _declared(target: object) -> Mapping[Argument, _Declared]:
    """The arguments of an operator by position and by name; nothing for those that are not torch's (getitem)."""
    found: dict[Argument, _Declared] = {}
    for position, one in enumerate(target._schema.arguments if isinstance(target, OpOverload) else ()):
        has_default = one.has_default_value()
        declared = _Declared(one.name, position, has_default, one.default_value if has_default else None)
        found |= {position: declared, one.name: declared}
    return found


@cache
def _name_of(target: object) -> str:
    """An operator's name without overload, and without the underscore of its in-place form."""
    name = str(getattr(target, "_opname", getattr(target, "__name__", target)))
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


@dataclass(frozen=True, eq=False)
class Operator:
    """One call of an operator."""

    node: fx.Node

    @property
    def name(self) -> str:
        """Its name without overload, and without the underscore of its in-place form: 'relu', 'add'."""
        return _name_of(self.node.target)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that it returns."""
        return shape(self.node)

    @property
    def rank(self) -> int:
        """How many dimensions the tensor that it returns has."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensor that it returns."""
        return dtype(self.node)

    @property
    def results(self) -> Sequence[Any]:
        """The tensors that it returns, where it returns several; they hold no values."""
        found: Sequence[Any] = self.node.meta["val"]
        return found

    @property
    def tensors(self) -> list[fx.Node]:
        """Every value that it reads and that is one tensor."""
        return [node for node in self.node.all_input_nodes if holds_tensor(node)]

    @property
    def module(self) -> str:
        """The path of the module whose forward pass calls it."""
        stack = [name for name, _ in (self.node.meta.get("nn_module_stack") or {}).values()]
        return stack[-1] if stack else ""

    @cached_property
    def where(self) -> str:
        """Where in the user's model it is called: 'layer1.0 (resnet.py:102: out += identity)'."""
        caller = self.module or self.name
        lines = (self.node.meta.get("stack_trace") or "").strip().splitlines()
        located = [index for index, line in enumerate(lines) if line.lstrip().startswith("File ")]
        user = [index for index in located if "/torch/nn/" not in lines[index]] or located
        if not user:
            return caller
        index = user[-1]
        file, line = lines[index].split('"')[1].rsplit("/", 1)[-1], lines[index].split("line ")[1].split(",")[0]
        code = lines[index + 1].strip() if index + 1 < len(lines) else ""
        return f"{caller} ({file}:{line}: {code})"

    def value(self, argument: Argument, default: Any = None) -> Any:
        """An argument as it stands in the graph; the schema's default where it was not passed, else `default`."""
        if isinstance(argument, int) and argument < len(self.node.args):
            return self.node.args[argument]
        if argument in self.node.kwargs:
            return self.node.kwargs[str(argument)]
        found = _declared(self.node.target).get(argument)
        if found is None:
            return default
        if found.name in self.node.kwargs:
            return self.node.kwargs[found.name]
        if found.position < len(self.node.args):
            return self.node.args[found.position]
        return found.default if found.has_default else default

    def input(self, argument: Argument) -> fx.Node:
        """An argument that is a value of the graph.

        Raises:
            NotLiteral: it is a number, a list or absent.
        """
        found = self.value(argument)
        return found if isinstance(found, fx.Node) else self._refuse(argument, found, "a tensor")

    def optional_input(self, argument: Argument) -> fx.Node | None:
        """An argument that is a value of the graph, None where it is none."""
        found = self.value(argument)
        return found if isinstance(found, fx.Node) else None

    def inputs(self, argument: Argument) -> list[fx.Node]:
        """The values of the graph in a list; what is None in it is left out.

        Raises:
            NotLiteral: it is no list.
        """
        found = self.value(argument)
        if not isinstance(found, (list, tuple)):
            self._refuse(argument, found, "a list of tensors")
        return [value for value in found if isinstance(value, fx.Node)]

    def integer(self, argument: Argument, default: int | None = None) -> int:
        """An integer.

        Raises:
            NotLiteral: it is none.
        """
        found = self.value(argument, default)
        return int(found) if isinstance(found, (int, bool)) else self._refuse(argument, found, "an integer")

    def integers(self, argument: Argument) -> list[int]:
        """A list of integers, a single one as a list of one, none as an empty list.

        Raises:
            NotLiteral: it is something else.
        """
        found = self.value(argument)
        values = found if isinstance(found, (list, tuple)) else [] if found is None else [found]
        return [int(v) if isinstance(v, int) else self._refuse(argument, found, "a list of integers") for v in values]

    def flag(self, argument: Argument) -> bool:
        """Whether it is true; an operator that has no such argument says no."""
        return bool(self.value(argument, False))

    def dim(self, rank: int, argument: Argument = "dim") -> int:
        """A dimension of a tensor of this rank, counted from its front."""
        return self.integer(argument) % rank

    def run(self, *tensors: Tensor) -> Any:
        """What it returns on these tensors in place of its first arguments, all others as they are."""
        assert callable(self.node.target)
        return self.node.target(*tensors, *self.node.args[len(tensors) :], **self.node.kwargs)

    def _refuse(self, argument: Argument, found: object, wanted: str) -> NoReturn:
        raise NotLiteral(f"argument {argument!r} of {self.name} is {found!r}, not {wanted}, in {self.where}")


@dataclass(frozen=True, eq=False)
class FlowOperator(Operator):
    """An operator with the channels of what it reads."""

    analysis: Analysis

    def axes(self, argument: Argument, *, free: bool = False) -> Value:
        """The channels of an argument, an entry a dimension; a number, a list or None has none."""
        return self.axes_of(self.value(argument), free=free)

    def axes_of(self, value: object, *, free: bool = False) -> Value:
        """The channels of a value of the graph, an entry a dimension; with `free` those that it would take as well."""
        if not holds_tensor(value):
            return ()
        found = self.analysis.values.get(value)
        assert not isinstance(found, list)  # several tensors, of which `getitem` takes one
        axes = (None,) * len(shape(value)) if found is None else found
        return axes if free else tuple(None if axis is None or axis.free else axis for axis in axes)

    def parameter(self, argument: Argument) -> str | None:
        """The name of the parameter or buffer that an argument is; None: it is computed, or there is none."""
        return self.analysis.parameter_name(self.value(argument))

    def tie(self, first: Axis, second: Axis) -> None:
        """Index by index, the two are the same channel."""
        self.analysis.tie(first.positions, second.positions)

    def freeze(self, axes: Iterable[Axis | None], reason: str) -> None:
        """The channels of these axes stay, for the reason given and because of this line of the model."""
        carrying = [axis for axis in axes if axis is not None]
        if carrying:
            self.analysis.freeze(carrying, f"{reason} in {self.where}")

    def refuse(self, axes: Iterable[Axis | None], reason: str) -> None:
        """The same, and the views that laid them out along these dimensions are to choose another one."""
        carrying = [axis for axis in axes if axis is not None]
        self.ask_for_other_views(carrying)
        self.freeze(carrying, reason)

    def ask_for_other_views(self, axes: Iterable[Axis | None]) -> None:
        """The views that laid channels out along these dimensions are to choose another one."""
        views = {axis.laid_out_by for axis in axes if axis is not None}
        self.analysis.refused_views |= {view for view in views if view is not None}

    def read_zeros(self, value: fx.Node, dim: int) -> None:
        """The channels along a dimension end here, where those that are zero add nothing."""
        axis = self.axes_of(value)[dim]
        if axis is not None:
            self.analysis.consumers.append(Consumer(self.node, "", 0, None, value, dim, axis, zeros_only=True))


@dataclass(frozen=True, eq=False)
class KnownOperator(Operator):
    """An operator with what is known of the values that it reads."""

    known: Mapping[fx.Node, Known]

    def constant(self, argument: Argument) -> Tensor:
        """What is known of an argument: a tensor that broadcasts to its shape, NaN where nothing is; or the number."""
        return self.constant_of(self.value(argument))

    def constant_of(self, value: Any) -> Tensor:
        """What is known of a value of the graph, or of a number."""
        if not isinstance(value, fx.Node):
            return torch.tensor(float(value))
        found = self.known[value]
        assert isinstance(found, Tensor)
        return found

    def full(self, argument: Argument) -> Tensor:
        """What is known of a tensor argument, in its full shape."""
        return self.full_of(self.input(argument))

    def full_of(self, value: fx.Node) -> Tensor:
        """What is known of a value of the graph, in its full shape."""
        return self.constant_of(value).expand(shape(value))

    def unknown(self) -> Tensor:
        """Nothing is known of what it returns."""
        return unknown(self.rank)
