"""Find out by running: silence a part of every group on a copy, remove it, compare. What fails is frozen.

Sizes that stand in the model's code (`x.view(-1, 320)`) are seen by no analysis; they show here. Each group loses
another share, so that two widths which have to be equal do not stay so by accident. Outputs can be blind to what a
model takes from a width: the graph of the smaller copy is compared as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from extcon_cli.channels.analysis.axes import Index
from extcon_cli.channels.analysis.constants import ConsumerInput, consumer_inputs
from extcon_cli.channels.analysis.groups import ChannelGroup, Channels, analyse
from extcon_cli.channels.analysis.trace import trace
from extcon_cli.channels.compare import (
    ROUNDED,
    Examples,
    Inputs,
    batch_size,
    compare,
    each_example,
    outputs,
    random_batches,
    runs,
)
from extcon_cli.channels.culprits import Failure, culprits
from extcon_cli.channels.modules import named_tensor
from extcon_cli.channels.preserving import duplicate, sketch
from extcon_cli.channels.reached import holding_unreached
from extcon_cli.channels.removal.apply import removed_copy, zero_channels
from extcon_cli.channels.removal.classify import GroupStatus, classify, holding_back
from extcon_cli.channels.removal.plan import plan_removal
from extcon_cli.channels.removal.retrace import failures_after
from extcon_cli.channels.removal.rewrites import RemovalPlan, Renorm
from extcon_cli.errors import first_line

TOLERANCE = 1e-4  # of the largest output: far over rounding, far under any mistake


def channel_groups(module: nn.Module, examples: Examples, *, ignore_unreached: bool = False) -> Channels:
    """The channel groups of a module, each tried out: what is prunable here has been removed once from a copy.

    Args:
        module: on any device, in any mode; it is not changed.
        examples: the arguments of one forward pass, by position or by name, or a list of several that reach other
            parts of the module.
        ignore_unreached: let channels go that parameters which no example reaches may read.

    Raises:
        TraceError: the forward pass cannot be traced.
    """
    channels = analyse(module, *(trace(module, example) for example in each_example(examples)))
    return dry_run(module, holding_unreached(module, channels, examples, ignore=ignore_unreached), examples)


def prunable_groups(model: nn.Module, example_inputs: Examples) -> tuple[ChannelGroup, ...]:
    """Every channel group of a model: what could go, and why the rest stays. The model is not changed.

        >>> import torch, extcon_cli
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> for group in extcon_cli.prunable_groups(model, (torch.randn(2, 4),)):
        ...     print(group.name, group.size, group.reason or "can go")
        0 8 can go
        2 2 is an output of the model

    Args:
        model: on any device, in any mode.
        example_inputs: the arguments of one forward pass, by position or by name, a batch of at least 2; or a list of
            several that reach other parts of the model.

    Returns:
        Groups of channels that go together. Each names its slices of parameters: those that go with a channel
        (`slices`), and those whose zeros make it zero (`zeroing_slices`).

    Raises:
        TraceError: the forward pass cannot be traced.
    """
    return channel_groups(model, example_inputs).groups


def dry_run(module: nn.Module, channels: Channels, examples: Examples, seed: int = 0) -> Channels:
    """Freeze the groups whose removal does not work out on this module, with the reason."""
    counts = {group: channels.removable_counts(group) for group in channels.groups if group.prunable}
    tried = [group for group, possible in counts.items() if possible]
    parts = _parts({group: counts[group] for group in tried}, seed)
    reasons: dict[int, str] = {}
    while (trial := _silenced(module, channels, tried, parts, examples)).stuck:  # they silence others no more
        reasons |= trial.stuck
        tried = [group for group in tried if id(group) not in reasons]
    attempts = 0

    def attempt(groups: Sequence[ChannelGroup]) -> Sequence[Failure]:
        nonlocal attempts
        attempts += 1
        return _attempt(module, trial, groups, examples, attempts > 1)

    reasons |= culprits(tried, attempt)
    for group in (group for group, possible in counts.items() if not possible):
        reasons[id(group)] = "a single channel" if group.size == 1 else "as few channels as what reads them takes"
    frozen = tuple(replace(group, reason=reasons.get(id(group), group.reason)) for group in channels.groups)
    return replace(channels, groups=frozen)


def _parts(counts: Mapping[ChannelGroup, range], seed: int) -> dict[int, Index]:
    """A random part of every group, of one of these sizes: another share of each, as far as they go: ties hide else."""
    generator = np.random.default_rng(seed)
    taken: Counter[float] = Counter()
    parts = {}
    for group, possible in counts.items():
        wanted = group.size * generator.uniform(0.25, 0.75)
        shares = {count / group.size: count for count in possible}
        share = min(shares, key=lambda one: (taken[one], abs(shares[one] - wanted)))
        taken[share] += 1
        parts[id(group)] = np.sort(generator.permutation(group.size)[: shares[share]])
    return parts


@dataclass(frozen=True)
class _Trial:
    """A copy in which a part of each of some groups is silenced, and what it gives."""

    module: nn.Module
    channels: Channels
    inputs: Sequence[ConsumerInput]
    statuses: Sequence[GroupStatus]
    stuck: Mapping[int, str]  # why silenced channels cannot go, by the `id` of their group
    batches: Sequence[Inputs] = ()
    expected: Sequence[list[Tensor]] = ()

    @cached_property
    def sketch(self) -> nn.Module:
        """The copy without numbers."""
        return sketch(self.module)


def _silenced(
    module: nn.Module, channels: Channels, groups: Sequence[ChannelGroup], parts: dict[int, Index], examples: Examples
) -> _Trial:
    """Silence these groups' parts in a copy, and see which channels could go."""
    silenced = {id(named_tensor(module, part.parameter)) for group in groups for part in group.zeroing_slices}
    trial = duplicate(module, [held for held in module.parameters() if id(held) not in silenced])
    for group in groups:
        zero_channels(trial, group, parts[id(group)])
    names = {id(group) for group in groups}
    kept = tuple(group if id(group) in names else replace(group, reason="-") for group in channels.groups)
    only = replace(channels, groups=kept)
    inputs = consumer_inputs(trial, only)
    statuses = classify(trial, only, inputs)
    silent = [status for status in statuses if id(status.group) in names]
    stuck = {id(one.group): why for one in silent if (why := _stuck(one, parts[id(one.group)]))}
    if stuck:
        return _Trial(trial, only, inputs, statuses, stuck)
    batches = [batch for one in each_example(examples) for batch in random_batches(one, sizes=(batch_size(one),))]
    expected = [outputs(trial, batch) for batch in batches]
    return _Trial(trial, only, inputs, statuses, {}, batches, expected)


def _attempt(
    module: nn.Module, trial: _Trial, groups: Sequence[ChannelGroup], examples: Examples, sketched: bool
) -> Sequence[Failure]:
    """Remove what is silent of these groups from a copy: what does not work out.

    With `sketched` its graph is made without numbers first, where a recording is asked for: one failure is rarely the
    only one, and what fails there needs no copy of weights.
    """
    tried = {id(group) for group in groups}
    statuses = holding_back(trial.statuses, lambda group: id(group) not in tried)
    removal = plan_removal(trial.module, trial.channels, trial.inputs, statuses)
    sketched = sketched and not any(graph.exported for graph in trial.channels.graphs)
    small = removed_copy(trial.sketch if sketched else trial.module, removal)
    if failures := failures_after(small, trial.channels, removal, examples):
        return failures
    small = removed_copy(trial.module, removal) if sketched else small
    try:
        found = [outputs(small, batch) for batch in trial.batches]
    except Exception as error:  # whatever the model's own code raises on other sizes
        return [Failure(f"the forward pass fails on the smaller width: {first_line(error)}")]
    gap = compare(zip(trial.expected, found, map(batch_size, trial.batches), strict=True))
    if gap.moved > TOLERANCE or gap.unequal > ROUNDED * gap.labels:
        why = f"removal changes the outputs by {gap.relative:.1e}: the forward pass depends on the width"
        coarse = {tensor.dtype for tensor in small.parameters()} & {torch.float16, torch.bfloat16}
        return [Failure(f"{why}, or {coarse.pop()} is too coarse to tell (try float32)" if coarse else why)]
    ranks = {norm.weight: norm.rank for norm in trial.channels.analysis.inline_norms}
    norms = [(norm, trial.module.get_submodule(norm.owner)) for norm in removal.norms]
    if not all(_follows_eps(norm, ranks[norm.weight], before, small, removal) for norm, before in norms):
        return [Failure("a norm in the model's own code does not take its eps from the attribute")]
    if any(not runs(small, one, training=True) and runs(module, one, training=True) for one in each_example(examples)):
        return [Failure("the forward pass fails on the smaller width in training mode")]
    return []


def _follows_eps(norm: Renorm, rank: int, before: nn.Module, trial: nn.Module, removal: RemovalPlan) -> bool:
    """Whether a norm does the same as before on inputs so small that its eps shows: in a whole network it does not."""
    kept = next(cut.kept() for cut in removal.cuts if (cut.parameter, cut.dim) == (norm.weight, 0))
    weight = named_tensor(trial, norm.weight)
    wide = weight.new_zeros((1,) * (rank - 1) + (norm.before,))
    wide[..., kept] = torch.linspace(1, 2, norm.after).to(weight) * (norm.eps or 1.0) ** 0.5
    try:
        expected = [output[..., kept] for output in outputs(before, (wide,))]
        found = outputs(trial.get_submodule(norm.owner), (wide[..., kept],))
    except Exception:  # it is no module of one input
        return False
    return compare([(expected, found, 1)]).moved <= TOLERANCE


def _stuck(status: GroupStatus, part: Any) -> str:
    """Why silenced channels cannot go: they emit a constant that nothing can take over. Empty: they can."""
    one_stays = status.carrier >= 0 or status.dead.all()  # other groups' parts were all that this one read
    if (~status.removable[part]).sum() <= one_stays:
        return ""
    if status.dead[part].all():
        return "a silenced channel emits a constant that is read through zero padding"
    return "a silenced channel does not become constant for all that read it"
