"""Norms written out in a model's own code: x * rsqrt(mean(x^2) + eps) * weight, as Llama and T5 have them.

Where n of N channels are left, and the others were zero, the mean is N / n times what it was. With N / n eps as eps the
root gives sqrt(n / N) times what it gave, which sqrt(N / n) weight makes up for: exact, and the class stays.
"""

from __future__ import annotations

from torch import fx

from extcon_cli.channels.analysis.axes import Analysis, Consumer, InlineNorm
from extcon_cli.channels.analysis.rules.linear import stored_name
from extcon_cli.channels.analysis.rules.registry import value_of
from extcon_cli.channels.analysis.trace import argument, called_by, holds_tensor, operator, shape
from extcon_cli.channels.attributes import EPSILONS

CASTS = ("to", "_to_copy", "type_as")


def root_mean_square(analysis: Analysis, mean: fx.Node) -> bool:
    """Whether a mean is that of a norm which can be told to count removed zeros; it is noted as one if so.

    All of it has to show in the graph: x squared, the mean over the last dimension, a literal eps that is a module's
    attribute, the root, x times it, times that module's vector, and nothing else that reads any of it.
    """
    read = _squared(_origin(mean.args[0]))
    added = _reader(mean)
    root = _reader(added)
    normed = _reader(root)
    scaled = _reader(normed)
    if read is None or added is None or root is None or normed is None or scaled is None:
        return False
    eps = added.args[1] if operator(added) == "add" and argument(added, "alpha") == 1 else None
    if type(eps) is not float or operator(scaled) != "mul" or not _along_channels(mean):
        return False
    if operator(normed) == "div" and argument(normed, "rounding_mode") is None and operator(root) == "sqrt":
        factor: object = normed.args[0]
    elif operator(normed) == "mul" and (operator(root) == "rsqrt" or (operator(root), *root.args[1:]) == ("pow", -0.5)):
        factor = _other(normed, root)
    else:
        return False
    weight, offset = _scale(_other(scaled, normed))
    name = stored_name(analysis, weight)
    if _origin(factor) is not read or weight is None or name is None or shape(weight) != shape(read)[-1:]:
        return False
    path = name.rpartition(".")[0]
    readers = [reader for node in mean.graph.nodes if analysis.names.get(node.name) == name for reader in _users(node)]
    if len(readers) != 1 or any(called_by(node) != path for node in (mean, added, scaled)):
        return False
    held = [key for key, value in vars(analysis.modules[path]).items() if type(value) is float and value == eps]
    axis = value_of(analysis, read)[-1]
    if len(held) != 1 or held[0] not in EPSILONS or axis is None:
        return False
    analysis.consumers.append(Consumer(mean, name, 0, None, read, len(shape(read)) - 1, axis, is_norm=True))
    analysis.inline_norms.append(InlineNorm(name, held[0], offset, axis, len(shape(read))))
    return True


def _along_channels(mean: fx.Node) -> bool:
    dims = argument(mean, "dim")
    return dims in ([-1], [len(shape(mean)) - 1]) and bool(argument(mean, "keepdim", False))


def _squared(node: fx.Node | None) -> fx.Node | None:
    """x where the node is its square, past casts."""
    if node is None:
        return None
    base, others = _origin(node.args[0]), node.args[1:]
    if operator(node) == "square" or (operator(node) == "pow" and others == (2,)):
        return base
    return base if operator(node) == "mul" and _origin(others[0]) is base else None


def _scale(node: object) -> tuple[fx.Node | None, float]:
    """(weight, offset) of a factor offset + weight, past casts that nothing else reads."""
    node = _origin(node, alone=True)
    if node is not None and operator(node) == "add" and type(node.args[1]) in (int, float):
        return (_origin(node.args[0], alone=True) if argument(node, "alpha") == 1 else None), float(node.args[1])  # type: ignore[arg-type]
    return node, 0.0


def _origin(node: object, alone: bool = False) -> fx.Node | None:
    """What a value was before casts between floating types."""
    if not isinstance(node, fx.Node) or not holds_tensor(node) or (alone and len(_users(node)) > 1):
        return None
    if node.op != "call_function" or operator(node) not in CASTS:
        return node if node.meta["val"].is_floating_point() else None
    return _origin(node.args[0], alone) if node.meta["val"].is_floating_point() else None


def _users(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if operator(user) != "_assert_tensor_metadata"]


def _reader(node: fx.Node | None) -> fx.Node | None:
    """The one operator that reads a value, past casts; None where there are several."""
    users = _users(node) if node is not None else []
    if len(users) != 1 or users[0].op != "call_function":
        return None
    if operator(users[0]) in CASTS:
        return _reader(users[0]) if users[0].args[0] is node and _origin(users[0]) is not None else None
    return users[0]


def _other(product: fx.Node, factor: fx.Node) -> object:
    """The other factor of a product."""
    first, second = product.args[:2]
    return second if _origin(first) is _origin(factor) else first
