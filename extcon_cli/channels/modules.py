"""What every part that looks at a module needs: its tensors by name, its eval mode, its outputs, its norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def named_modules(module: nn.Module, *, every_name: bool = False) -> list[tuple[str, nn.Module]]:
    """What nn.Module.named_modules gives, in one walk instead of a generator within another.

    With `every_name` a module that stands in several places is there under each of its names.
    """
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def visit(path: str, child: nn.Module) -> None:
        if not every_name:
            if id(child) in seen:
                return
            seen.add(id(child))
        found.append((path, child))
        front = f"{path}." if path else ""
        for name, below in child._modules.items():
            if below is not None:
                visit(front + name, below)

    visit("", module)
    return found


def submodules(module: nn.Module) -> list[nn.Module]:
    """The module and all within it, each once."""
    return [child for _, child in named_modules(module)]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode, every submodule's own mode restored afterwards."""
    modes = [(child, child.training) for child in submodules(module)]
    if any(training for _, training in modes):
        module.eval()
    try:
        yield module
    finally:
        for child, training in modes:
            if child.training is not training:
                child.training = training


def named_tensor(module: nn.Module, name: str) -> Tensor:
    """One parameter or buffer."""
    path, _, key = name.rpartition(".")
    held: Tensor = getattr(module.get_submodule(path), key)
    return held


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, tied ones under each of their names."""
    places = [(f"{path}." if path else "", child) for path, child in named_modules(module, every_name=True)]
    return {
        f"{path}{key}": tensor
        for store in ("_parameters", "_buffers")
        for path, child in places
        for key, tensor in getattr(child, store).items()
        if tensor is not None
    }


def meta_like(tensor: Tensor) -> Tensor:
    """A tensor without numbers that is like this one."""
    if tensor.is_contiguous():  # what empty_like gives, sooner
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return torch.empty_like(tensor, device="meta")


def stand_in(tensor: Tensor) -> Tensor:
    """A parameter or buffer without numbers in the place of this one, with its attributes."""
    meta = meta_like(tensor)
    if isinstance(tensor, nn.Parameter):
        meta = nn.Parameter(meta, requires_grad=tensor.requires_grad)
    vars(meta).update(vars(tensor))
    return meta


def open_dataclasses(output: Any) -> Any:
    """An output with every dataclass in it as a dict, which torch's pytrees look into."""

    def opened(leaf: Any) -> Any:
        if not is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        return open_dataclasses({field.name: getattr(leaf, field.name) for field in fields(leaf)})

    return tree_map(opened, output)


Norm = nn.LayerNorm | nn.RMSNorm | nn.GroupNorm


def is_norm(module: nn.Module | None) -> TypeGuard[Norm]:
    """Whether it is a norm over all channels that has a narrow form: layer, RMS, or group norm of a single group.

    It normalises its last dimension, or dimension 1 (group norm, and layer norms named so: `LayerNorm2d`).
    """
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == 1 and module.weight is not None
    if not isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return False
    return len(module.normalized_shape) == 1 and module.weight is not None


def norm_dim(module: Norm) -> int:
    """The dimension of a norm's channels in what the module is given: 1 for maps, else the last."""
    held = vars(module)
    maps = type(module).__name__.endswith("2d") or held.get("data_format") == "channels_first"
    return 1 if isinstance(module, nn.GroupNorm) or maps else int(held.get("dim", -1))


RESPONSE_NORMS = (
    "transformers.models.convnextv2.modeling_convnextv2.ConvNextV2GRN",
    "timm.layers.grn.GlobalResponseNorm",
    "extcon_cli.channels.removal.narrow_models.NarrowResponseNorm",
)
"""Full names of the classes of ConvNeXt V2's norm, which divides by the mean over the channels."""


def is_response_norm(module: nn.Module | None) -> bool:
    """Whether it is ConvNeXt V2's norm, which has a narrow form."""
    return f"{type(module).__module__}.{type(module).__qualname__}" in RESPONSE_NORMS
