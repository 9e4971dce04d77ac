"""Activation modules that can be swapped, for models whose forward pass cannot be rewritten.

What is an activation is found by looking: a module without parameters or children that acts on each element alone, is
no identity and does not depend on chance. It has to be called once in a forward pass.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from extcon_cli.channels.compare import Inputs, call


def sharing(model: nn.Module) -> nn.Module:
    """A copy of the modules over the same parameters and buffers."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def activations(model: nn.Module, example: Inputs) -> dict[str, tuple[int, int]]:
    """Of each activation module, by its path: how many channels it acts on, and along which dimension they lie."""
    candidates = {
        module: path
        for path, module in model.named_modules()
        if path and not any(True for _ in (*module.children(), *module.parameters(), *module.buffers()))
    }
    dense: list[Tensor] = []  # kept, so that no other tensor comes to lie in their places
    calls: dict[str, list[tuple[int, int]]] = {}

    def see(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear):
            dense.append(output)
        if module not in candidates or not isinstance(output, Tensor) or len(inputs) != 1:
            return
        (x,) = inputs
        if isinstance(x, Tensor) and x.is_floating_point() and x.shape == output.shape and x.dim():
            axis = channel_axis(x.dim(), any(x is other for other in dense))
            calls.setdefault(candidates[module], []).append((int(x.shape[axis]), axis))

    handles = [module.register_forward_hook(see) for module in model.modules()]
    try:
        call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return {path: made[0] for path, made in calls.items() if len(made) == 1 and _elementwise(model.get_submodule(path))}


def channel_axis(dims: int, dense: bool) -> int:
    """Along which dimension channels lie: the last behind a dense layer and in three dimensions, else the second."""
    return dims - 1 if dense or dims in (1, 3) else 1


def _elementwise(module: nn.Module) -> bool:
    x = torch.linspace(-4, 4, 64).reshape(4, 4, 4)
    other = x.clone()
    other[::2, ::2, ::2] += 1  # moves what it has to, and nothing beside
    training = module.training
    try:
        y, moved = module.eval()(x.clone()), module(other.clone())
        trained = module.train()(x.clone())
    except Exception:  # whatever it raises on such an input: it is no activation
        return False
    finally:
        module.train(training)
    alone = torch.equal(torch.where(x == other, moved, y), y)
    return alone and torch.equal(y, trained) and not torch.equal(y, x)
