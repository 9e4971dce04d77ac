"""What every specification of exact removal needs: kill channels, remove them, and hold the outputs to the bar."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from extcon_cli.channels import (
    ChannelGroup,
    Channels,
    Difference,
    RemovalPlan,
    channel_groups,
    difference,
    plan_removal,
    remove,
    zero_channels,
)
from extcon_cli.channels.compare import in_double, random_batches
from extcon_cli.channels.modules import named_tensors

Example = tuple[Any, ...]
Kill = Callable[[nn.Module, Channels], None]


@dataclass(frozen=True)
class Removal:
    """A module with its dead channels still there, the same without them, and how far their outputs differ."""

    before: nn.Module
    after: nn.Module
    channels: Channels
    plan: RemovalPlan
    single: Difference
    double: Difference

    @property
    def gone(self) -> int:
        """How many parameters fewer."""
        return parameters(self.before) - parameters(self.after)

    def group(self, name: str) -> ChannelGroup:
        """The group of a module's filters."""
        return next(group for group in self.channels.groups if group.name == name)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def kill_halves(module: nn.Module, channels: Channels, seed: int = 0) -> None:
    """Silence a random half of every prunable group."""
    generator = np.random.default_rng(seed)
    for group in channels.groups:
        if group.prunable:
            zero_channels(module, group, np.sort(generator.permutation(group.size)[: group.size // 2]))


@torch.no_grad()
def kill_to_constants(module: nn.Module, channels: Channels, constant: float = 0.8, every: int = 1) -> None:
    """Half of every prunable group dead; of these one in so many not zero: weights and gamma 0, a bias that is not."""
    generator = np.random.default_rng(0)
    tensors = named_tensors(module)
    for group in channels.groups:
        if group.prunable:
            half = np.sort(generator.permutation(group.size)[: group.size // 2])
            zero_channels(module, group, half)
            for part in group.zeroing_slices:
                if part.parameter.endswith(("bias", "shift")):
                    tensors[part.parameter][part.index[half[::every]].ravel()] = constant


def remove_exactly(
    module: nn.Module,
    example: Example,
    kill: Kill = kill_halves,
    others: Iterable[Example] = (),
    sizes: tuple[int, ...] = (1, 3),
) -> Removal:
    """Kill, plan, remove; assert that no output moved, on random inputs of these batch sizes and resolutions.

    The bar: 1e-5 of the largest output in float32, 1e-10 in float64, where the whole rewrite is done in float64.
    """
    before = copy.deepcopy(module).eval()
    channels = channel_groups(before, example)
    kill(before, channels)
    removal = plan_removal(before, channels)
    after = copy.deepcopy(before)
    remove(after, removal)
    double_before = in_double(before)
    double_after = copy.deepcopy(double_before)
    remove(double_after, removal)

    def batches(dtype: torch.dtype | None) -> Iterator[Example]:
        for inputs in (example, *others):
            yield from random_batches(inputs, sizes=sizes, dtype=dtype)

    single = difference(before, after, batches(None))
    double = difference(double_before, double_after, batches(torch.float64))
    assert single.relative <= 1e-5, f"float32: {single.relative:.1e}"
    assert double.relative <= 1e-10, f"float64: {double.relative:.1e}"
    assert single.scale > 0, "a model whose output is zero shows nothing"
    return Removal(before, after, channels, removal, single, double)


@pytest.fixture(scope="session", name="remove_exactly")
def _remove_exactly() -> Callable[..., Removal]:
    return remove_exactly


@pytest.fixture(scope="session", name="kill_halves")
def _kill_halves() -> Kill:
    return kill_halves


@pytest.fixture(scope="session", name="kill_to_constants")
def _kill_to_constants() -> Kill:
    return kill_to_constants


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)
