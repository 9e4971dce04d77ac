"""Norms written out in a model's own code: x * rsqrt(mean(x^2) + eps) * weight, as Llama and T5 have them.

Where n of N channels are left, and the others were zero, the mean is N / n times what it was. With N / n eps as eps the
root gives sqrt(n / N) times what it gave, which sqrt(N / n) weight makes up for: exact, and the class stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from extcon_cli.channels.analysis.axes import Consumer, InlineNorm
from extcon_cli.channels.analysis.operator import FlowOperator, Operator, dtype, holds_tensor, shape
from extcon_cli.channels.attributes import EPSILONS

CASTS = ("to", "_to_copy", "type_as")


@dataclass(frozen=True)
class _RootMeanSquare:
    """What a norm in a model's own code reads and multiplies by, as the graph shows it."""

    read: fx.Node
    eps: float
    weight: fx.Node
    offset: float  # what is added to the weight
    parts: tuple[Operator, ...]  # the mean, eps added to it, the product with the weight


def root_mean_square(op: FlowOperator) -> bool:
    """Whether a mean is that of a norm which can be told to count removed zeros; it is noted as one if so.

    All of it has to show in the graph: x squared, the mean over the last dimension, a literal eps that is a module's
    attribute, the root, x times it, times that module's vector, and nothing else that reads any of it.
    """
    found = _matched(op)
    if found is None:
        return False
    name = op.analysis.parameter_name(found.weight)
    if name is None or shape(found.weight) != shape(found.read)[-1:]:
        return False
    path = name.rpartition(".")[0]
    attributes = vars(op.analysis.modules[path]).items()
    held = [key for key, value in attributes if type(value) is float and value == found.eps]
    axis = op.axes_of(found.read)[-1]
    alone = _times_read(op, name) == 1 and all(part.module == path for part in found.parts)
    if not alone or len(held) != 1 or held[0] not in EPSILONS or axis is None:
        return False
    rank = len(shape(found.read))
    op.analysis.consumers.append(Consumer(op.node, name, 0, None, found.read, rank - 1, axis, zeros_only=True))
    op.analysis.inline_norms.append(InlineNorm(name, held[0], found.offset, axis, rank))
    return True


def _matched(mean: Operator) -> _RootMeanSquare | None:
    """The norm around a mean, None where the operators after it, or before it, are others."""
    read = _squared(_before_casts(mean.input(0)))
    added = _only_reader(mean)
    root = added and _only_reader(added)
    normed = root and _only_reader(root)
    scaled = normed and _only_reader(normed)
    if read is None or added is None or root is None or normed is None or scaled is None:
        return None
    eps = added.value(1) if added.name == "add" and added.value("alpha") == 1 else None
    if type(eps) is not float or scaled.name != "mul" or not _along_channels(mean):
        return None
    weight, offset = _scale(_other_factor(scaled, normed))
    if weight is None or _before_casts(_divided_by(normed, root)) is not read:
        return None
    return _RootMeanSquare(read, eps, weight, offset, (mean, added, scaled))


def _divided_by(normed: Operator, root: Operator) -> object:
    """What is divided by the root, as a quotient or as a product with its reciprocal; None: neither."""
    if normed.name == "div" and normed.value("rounding_mode") is None and root.name == "sqrt":
        return normed.value(0)
    if normed.name == "mul" and (root.name == "rsqrt" or (root.name, *root.node.args[1:]) == ("pow", -0.5)):
        return _other_factor(normed, root)
    return None


def _along_channels(mean: Operator) -> bool:
    return mean.value("dim") in ([-1], [mean.rank - 1]) and mean.flag("keepdim")


def _squared(node: fx.Node | None) -> fx.Node | None:
    """x where the node is its square, past casts."""
    if node is None or not node.args:
        return None
    op, base = Operator(node), _before_casts(node.args[0])
    if op.name == "square" or (op.name == "pow" and node.args[1:] == (2,)):
        return base
    return base if op.name == "mul" and _before_casts(op.value(1)) is base else None


def _scale(node: object) -> tuple[fx.Node | None, float]:
    """(weight, offset) of a factor offset + weight, past casts that nothing else reads."""
    factor = _before_casts(node, alone=True)
    if factor is None or Operator(factor).name != "add":
        return factor, 0.0
    op = Operator(factor)
    offset = op.value(1)
    if type(offset) not in (int, float):
        return factor, 0.0
    return (_before_casts(op.value(0), alone=True) if op.value("alpha") == 1 else None), float(offset)


def _before_casts(node: object, alone: bool = False) -> fx.Node | None:
    """What a value was before casts between floating types; with `alone`, only where nothing else reads it."""
    if not holds_tensor(node) or (alone and len(_readers(node)) > 1) or not dtype(node).is_floating_point:
        return None
    cast = node.op == "call_function" and Operator(node).name in CASTS
    return _before_casts(node.args[0], alone) if cast else node


def _readers(node: fx.Node) -> list[Operator]:
    """The operators that read a value."""
    users = [Operator(user) for user in node.users]
    return [user for user in users if user.name != "_assert_tensor_metadata"]


def _only_reader(op: Operator) -> Operator | None:
    """The one operator that reads a value, past casts; None where there are several."""
    users = _readers(op.node)
    if len(users) != 1 or users[0].node.op != "call_function":
        return None
    user = users[0]
    if user.name not in CASTS:
        return user
    return _only_reader(user) if user.value(0) is op.node and _before_casts(user.node) is not None else None


def _times_read(op: FlowOperator, name: str) -> int:
    """How many operators read a parameter."""
    held = [node for node in op.node.graph.nodes if op.analysis.parameter_name(node) == name]
    return sum(len(_readers(node)) for node in held)


def _other_factor(product: Operator, factor: Operator) -> object:
    """The other factor of a product."""
    first, second = product.value(0), product.value(1)
    return second if _before_casts(first) is _before_casts(factor.node) else first
