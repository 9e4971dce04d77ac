"""Torch-Pruning and simplify on the networks of benchmarks/removal.py, held to the same bar.

Torch-Pruning halves every group of its own choice (outputs ignored, heads by number). What it cuts is read off a copy
whose weights are their own positions; those channels are then zero in the reference: every slice of weight, bias, gamma
and beta that it removes as an output. simplify gets the zeros of extcon's groups.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from extcon_cli.channels import channel_groups, difference, zero_channels
from extcon_cli.channels.compare import EXACT, EXACT_DOUBLE, Inputs, in_double, random_batches

PROJECTIONS = ("qkv", "q", "k", "v", "query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin")


def torch_pruning(module: nn.Module, example: Inputs) -> dict[str, Any]:
    """The same of Torch-Pruning: its groups halved at random, the difference to those channels set to zero."""
    seconds, _ = _halved(copy.deepcopy(module), example)
    numbered = copy.deepcopy(module).double()
    for parameter in numbered.parameters():
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
    doubled = next(iter(random_batches(example, sizes=(2,), dtype=torch.float64)))
    _, cut = _halved(numbered, doubled)
    zeroed, small = copy.deepcopy(module), copy.deepcopy(cut).float()
    values = dict(module.namedparameters())
    reached, total = 0.0, 0
    with torch.no_grad():
        for name, kept in cut.namedparameters():
            value = values[name]
            positions = kept.detach().long()
            small.get_parameter(name).copy_(value.flatten()[positions])
            total += value.numel()
            shares, places = 1.0, np.unravel_index(positions.numpy().ravel(), value.shape)
            for dim, (place, size) in enumerate(zip(places, value.shape, strict=True)):
                gone = np.setdiff1d(np.arange(size), place)
                shares *= max(0.0, 1 - 2 * len(gone) / size)
                if dim == 0 and len(gone):
                    zeroed.get_parameter(name)[torch.from_numpy(gone)] = 0.0
            reached += (1 - shares) * value.numel()
    _keep_statistics(module, small, cut)
    single = difference(zeroed, small, random_batches(example))
    double = difference(in_double(zeroed), in_double(small), random_batches(example, dtype=torch.float64))
    exact = single.relative <= EXACT and double.relative <= EXACT_DOUBLE
    return {
        "seconds": seconds,
        "coverage": reached / total,
        "gone": 1 - parameters(cut) / parameters(module),
        "single": single.relative,
        "double": double.relative,
        "exact": exact,
    }


def simplified(module: nn.Module, example: Inputs) -> dict[str, Any]:
    """The same of simplify, which removes zeros where it finds them: those of extcon's groups."""
    import simplify

    before = copy.deepcopy(module)
    generator = np.random.default_rng(1)
    for group in channel_groups(module, example).groups:
        if group.prunable:
            zero_channels(before, group, np.sort(generator.permutation(group.size)[: group.size // 2]))
    after = copy.deepcopy(before)
    (image,) = example  # it takes one tensor
    start = time.perf_counter()
    simplify.simplify(after, torch.zeros(1, *image.shape[1:]))
    seconds = time.perf_counter() - start
    single = difference(before, after, random_batches(example))
    return {
        "seconds": seconds,
        "gone": 1 - parameters(after) / parameters(module),
        "single": single.relative,
        "exact": single.relative <= EXACT,
    }


def _keep_statistics(module: nn.Module, small: nn.Module, cut: nn.Module) -> None:
    """Batch norm's buffers of the kept channels, by the positions that its gamma says."""
    for name, child in cut.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.weight is not None:
            positions, old, new = child.weight.detach().long(), module.get_submodule(name), small.get_submodule(name)
            new.running_mean, new.running_var = old.running_mean[positions], old.running_var[positions]


def _halved(module: nn.Module, example: Inputs) -> tuple[float, nn.Module]:
    import torch_pruning as tp

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    heads = {}
    for child in module.modules():
        count = getattr(child, "num_heads", getattr(child, "num_attention_heads", None))
        if isinstance(count, int):
            heads |= {linear: count for name, linear in child.named_children() if name in PROJECTIONS}
    start = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        module,
        example,
        importance=lambda group: torch.rand(len(group[0].idxs), generator=generator),
        pruning_ratio=0.5,
        ignored_layers=_outputs(module, example),
        num_heads=heads,
        prune_num_heads=bool(heads),
    )
    pruner.step()
    return time.perf_counter() - start, module


def _outputs(module: nn.Module, example: Inputs) -> list[nn.Module]:
    """The last linear maps before the outputs, which Torch-Pruning wants to be told."""
    last = [child for child in module.modules() if isinstance(child, (nn.Linear, nn.Conv2d))][-1]
    return [last]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
