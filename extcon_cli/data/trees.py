"""Trees of tensors: a tensor, or a dict, list or tuple of trees. Samples, batches and splits are such trees.

It knows nothing of files or devices. Tuples stay tuples, any mapping becomes a dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from extcon_cli.errors import DataError

Tree = Any
"""A tensor, or a dict, list or tuple of trees; Python's types cannot say so without getting in the way."""


def mapped(tree: Tree, change: Callable[[Any], Any]) -> Tree:
    """The tree with each leaf changed."""
    if isinstance(tree, Mapping):
        return {key: mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        inner = [mapped(value, change) for value in tree]
        return type(tree)(*inner) if hasattr(tree, "_fields") else type(tree)(inner)
    return change(tree)


def leaves(tree: Tree) -> Iterator[Any]:
    """The leaves, in order."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


def first_leaf(tree: Tree) -> Tensor:
    """The first tensor of the tree (DataError: it has none)."""
    leaf = next(leaves(tree), None)
    if not isinstance(leaf, Tensor):
        raise DataError("the inputs hold no tensor")
    return leaf


def length(tree: Tree) -> int:
    """The size that all leaves share along the first dimension (DataError: they do not)."""
    sizes = {len(leaf) if leaf.dim() else 0 for leaf in leaves(tree)}
    if len(sizes) != 1:
        raise DataError(f"the parts of a batch differ in length: {', '.join(map(str, sorted(sizes))) or 'none'}")
    return sizes.pop()


def stacked(samples: Sequence[Tree]) -> Tree:
    """One tree whose leaves have the samples along a new first dimension.

    Raises: DataError where the samples differ in their keys, or their leaves in shape.
    """
    first = samples[0]
    if isinstance(first, Mapping):
        if any(not isinstance(sample, Mapping) or set(sample) != set(first) for sample in samples):
            raise DataError(f"the samples differ in their keys; the first has {', '.join(map(str, first))}")
        return {key: stacked([sample[key] for sample in samples]) for key in first}
    if isinstance(first, list | tuple):
        if any(not isinstance(sample, list | tuple) or len(sample) != len(first) for sample in samples):
            raise DataError(f"the samples differ in their parts; the first has {len(first)}")
        columns = [stacked(column) for column in zip(*samples, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)
    odd = next((sample for sample in samples if sample.shape != first.shape), None)
    if odd is not None:
        shapes = f"{list(first.shape)} and {list(odd.shape)}"
        raise DataError(f"samples of one batch differ in shape: {shapes}; the dataset should give them one size")
    return torch.stack(list(samples))


def as_tensor(raw: Any) -> Tensor:
    """One leaf as a tensor: (C, H, W) uint8 of a PIL image, float64 as float32, tensors and arrays as they are."""
    if type(raw).__module__.startswith("PIL"):
        from torchvision.transforms.v2.functional import pil_to_tensor

        return pil_to_tensor(raw)
    try:
        tensor = raw if isinstance(raw, Tensor) else torch.as_tensor(raw)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(f"the dataset gives a {type(raw).__name__} where a tensor should be") from error
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def as_tree(raw: Any) -> Tree:
    """A sample as a tree of tensors; a list of plain numbers is one tensor."""
    if isinstance(raw, Mapping):
        return {key: as_tree(value) for key, value in raw.items()}
    if isinstance(raw, list | tuple) and not all(isinstance(value, int | float) for value in raw):
        inner = [as_tree(value) for value in raw]
        return type(raw)(*inner) if hasattr(raw, "_fields") else type(raw)(inner)
    return as_tensor(raw)
