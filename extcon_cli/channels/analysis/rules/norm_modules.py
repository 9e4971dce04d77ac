"""Whether a norm module's forward pass is the norm and nothing else, so that a narrow form can take its place.

torch's own classes are. A subclass may clamp its input, add an activation or take another eps: it is exchanged only
where its part of the graph shows the norm between permutations that undo each other, and casts.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from extcon_cli.channels.analysis.operator import FlowOperator, Operator, dtype, shape
from extcon_cli.channels.modules import Norm, is_norm, is_response_norm, norm_dim

PLAIN = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
PERMUTATIONS = ("permute", "transpose", "movedim", "swapaxes", "swapdims")
PASSING = ("contiguous", "to", "_to_copy", "type_as", "_assert_tensor_metadata")
PRIMES = (2, 3, 5, 7, 11, 13, 17)
"""Sizes that tell dimensions apart after a permutation."""


def is_call_of_norm(op: FlowOperator) -> bool:
    """Whether the operator is the whole forward pass of a norm module, with that module's own weight."""
    name, module = op.parameter("weight"), op.analysis.modules.get(op.module)
    if name is None or op.analysis.modules.get(name.rpartition(".")[0]) is not module or not is_norm(module):
        return False
    return type(module) in PLAIN or _nothing_but_the_norm(op, module)


def is_mean_of_response(op: FlowOperator) -> bool:
    """Whether a mean is that of a response norm, which can be told to count removed zeros."""
    read = op.input(0)
    sizes = read.op == "call_function" and Operator(read).name in ("linalg_vector_norm", "norm")
    return sizes and op.flag("keepdim") and is_response_norm(op.analysis.modules.get(op.module))


def _nothing_but_the_norm(op: FlowOperator, module: Norm) -> bool:
    inside = {node for node in op.node.graph.nodes if op.module in _callers(node)}
    if any(Operator(node).name not in (op.name, *PERMUTATIONS, *PASSING) for node in inside):
        return False
    before, after = _chain_before(op, inside), _chain_after(op, inside)
    if before is None or after is None or op.value("eps") != vars(module)["eps"]:
        return False
    rank = op.rank
    sizes = PRIMES[:rank]
    read = _permuted(sizes, before)
    dim = 1 if op.name == "group_norm" else rank - 1
    first, last = (before[0].input(0) if before else op.input(0)), (after[-1] if after else op).node
    alike = dtype(first) == dtype(last) and _permuted(read, after) == sizes and shape(first) == shape(last)
    return alike and sizes.index(read[dim]) == norm_dim(module) % rank


def _callers(node: fx.Node) -> list[str]:
    """The paths of the modules whose forward passes were running."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def _chain_before(op: Operator, inside: set[fx.Node]) -> list[Operator] | None:
    """The operators from what the module reads to the norm; None where they are no chain."""
    chain: list[Operator] = []
    node = op.input(0)
    while node in inside:
        chain.insert(0, Operator(node))
        if sum(user in inside for user in node.users) > 1:
            return None
        node = chain[0].input(0)
    return chain


def _chain_after(op: Operator, inside: set[fx.Node]) -> list[Operator] | None:
    """The operators from the norm to what the module gives; None where they are no chain."""
    chain: list[Operator] = []
    node = op.node
    while users := [user for user in node.users if user in inside]:
        if len(users) > 1 or len(node.users) > 1:
            return None
        chain.append(Operator(users[0]))
        node = users[0]
    return chain


def _permuted(sizes: tuple[int, ...], chain: list[Operator]) -> tuple[int, ...]:
    """The sizes of a tensor after the permutations in a chain."""
    tensor = torch.empty(sizes, device="meta")
    for op in chain:
        if op.name in PERMUTATIONS:
            tensor = op.run(tensor)
    return tuple(tensor.shape)
