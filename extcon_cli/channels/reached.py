"""Which modules the examples reach, in training mode too, and the groups that stay since others may read them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import nn

from extcon_cli.channels.analysis.groups import Channels
from extcon_cli.channels.analysis.unreached import hold_what_may_feed, owners, unreached_parameters
from extcon_cli.channels.compare import Examples, call, each_example
from extcon_cli.channels.preserving import duplicate


def holding_unreached(module: nn.Module, channels: Channels, examples: Examples, *, ignore: bool = False) -> Channels:
    """The channels with what no example reaches, and, unless ignored, with the groups that may feed it frozen."""
    names = unreached_parameters(module, channels.graphs)
    if names:
        called = _called_in_training(module, owners(names), examples)
        names = tuple(name for name in names if name.rpartition(".")[0] not in called)
    groups = hold_what_may_feed(channels.groups, channels.analysis.dims, module, () if ignore else names)
    return replace(channels, groups=groups, unreached=owners(names))


def _called_in_training(module: nn.Module, paths: Collection[str], examples: Examples) -> set[str]:
    """Those of these modules that a forward pass in training mode calls: the dry run goes through them too."""
    trial, called = duplicate(module), set[str]()
    for path, child in trial.named_modules():
        if path and path in paths:
            child.register_forward_pre_hook(lambda *_, path=path: called.add(path))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for example in each_example(examples):
            try:
                call(trial.train(), example)
            except Exception:  # the dry run cannot run it either
                return set()
    return called
